"""Every random choice is a pure function of the seed and of what is being chosen. Imports no torch.

So a run needs no random state on disk: killed and resumed, it draws what it would have drawn.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: object) -> int:
    """Return a 32-bit seed (what every library takes) for the thing that `parts` name."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
