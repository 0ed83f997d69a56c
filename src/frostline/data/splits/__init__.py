"""Splits: groups, near duplicates, parts and folds."""
