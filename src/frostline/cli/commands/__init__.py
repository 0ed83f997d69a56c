"""A file per command (`measure` stands with `plan`): its options, the call of the library, what it prints."""
