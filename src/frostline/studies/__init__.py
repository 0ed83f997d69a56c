"""Study folders of `train`, `compare` and `fit`: their runs, which is best, and its decision threshold."""
