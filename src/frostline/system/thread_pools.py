"""Pools of threads, begun only when later imports write nothing into the environment. Imports no torch.

glibc's `getenv` may crash while another thread writes the environment. libjpeg calls it for each picture, in
the thread that decodes. joblib and scikit-learn write variables when they are imported, which is where
somebody first needs them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

# What joblib 1.6 and scikit-learn 1.9 write where it is not there, with the same values.
WRITTEN_BY_IMPORTS = {"KMP_INIT_AT_FORK": "FALSE", "KMP_DUPLICATE_LIB_OK": "True"}


def thread_pool(threads: int, name: str = "") -> ThreadPoolExecutor:
    """Return a pool of so many threads, `name` being what their names begin with."""
    for variable, value in WRITTEN_BY_IMPORTS.items():
        os.environ.setdefault(variable, value)
    return ThreadPoolExecutor(threads, thread_name_prefix=name)
