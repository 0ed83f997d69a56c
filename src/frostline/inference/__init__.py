"""Prediction by a finished run, selective prediction, and pictures of mistakes."""
