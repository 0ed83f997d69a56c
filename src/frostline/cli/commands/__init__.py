"""One file a verb: its options, the call of the library, and what it prints."""
