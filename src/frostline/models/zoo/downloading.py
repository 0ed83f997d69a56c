"""Nothing is downloaded without consent: the download is described, and the user is asked.

`download` is True (fetch, and say so), False (never), or None: ask on a terminal, else refuse.
"""

from __future__ import annotations

import sys

from frostline.errors import ModelError, option
from frostline.models.zoo.catalogue import on_disk
from frostline.models.zoo.hub_access import OFFLINE, TIMEOUT_S, WITHOUT, Offer, forbidden, online

SHOWN = 8  # names in a message
YES = ("y", "yes")


def agree(offer: Offer, download: bool | None) -> None:
    """Return where the weights may be fetched now. Raises `ModelError` with the reason where they may not."""
    missing = f"The weights of {offer.title} are not on this machine"
    if forbidden():
        raise ModelError(
            f"{missing}, and no hub is contacted, since {OFFLINE} is set. {_at_hand()} {WITHOUT}"
        )
    if download is False or (download is None and not _is_interactive()):
        raise ModelError(f"{missing}. {how(offer)} {_at_hand()}")
    if not online(offer.host):
        raise ModelError(
            f"{missing}, and {offer.host} does not respond within {TIMEOUT_S:g} s. {_at_hand()} {WITHOUT}"
        )
    if download is None and not _says_yes(offer):
        raise ModelError(f"{missing}, and were not fetched. {_at_hand()}")
    if download:
        print(f"Fetching {offer}.", file=sys.stderr, flush=True)


def how(offer: Offer) -> str:
    """Return what would be fetched, and how to ask for it."""
    return (
        f"Fetch them with {option('download', True)}, or beforehand with `frostline stages {offer.title} "
        f"--download`: {str(offer).partition(': ')[2]}."
    )


def _at_hand() -> str:
    """Name what needs no network."""
    names = on_disk()
    if not names:
        return "No network is on this disk (`frostline models`)."
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"On this disk: {', '.join(names[:SHOWN])}{more} (`frostline models`)."


def _is_interactive() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _says_yes(offer: Offer) -> bool:
    """Ask on standard error, since standard output may be read by a program."""
    print(f"Not on this machine: {offer}.\nFetch it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in YES
