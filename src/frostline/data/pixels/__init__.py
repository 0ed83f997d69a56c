"""From a file's bytes to pixels: decoding, depth, geometry."""
