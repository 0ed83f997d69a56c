"""What a person reads in the terminal: tables and sentences. Nothing here computes a figure."""
