"""This process and this machine: seeds, numerics, time, threads, folders, text."""
