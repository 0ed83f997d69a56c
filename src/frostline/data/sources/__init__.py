"""Sources of labelled images: folders, tables, shards, datasets, arrays."""
