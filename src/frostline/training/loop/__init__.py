"""The training loop: batches, optimizer, steps, gradients of several processes, a solved head."""
