"""Where a network may be cut exactly, and its two halves."""
