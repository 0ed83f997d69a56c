"""What adjusts a run: class weights, mixing, learning-rate search, flips, averaged weights, BatchNorm."""
