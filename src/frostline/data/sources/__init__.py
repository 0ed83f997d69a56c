"""Every way of handing over labelled images: folders, tables, shards, datasets, arrays."""
