"""Splits: groups, near duplicates, subsets and folds."""
