"""A file per command, or per pair: its options, the call of the library, and what it prints."""
