"""More than one process: torchrun's, and a Ray cluster's."""
