"""Who is held out: groups, near duplicates, parts and folds."""
