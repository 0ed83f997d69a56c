"""What is searched or asked of the images around a run: rates, flips, weights."""
