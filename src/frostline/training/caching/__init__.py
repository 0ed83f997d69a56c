"""Which features of frozen layers are kept, and how a cache is filled beforehand."""
