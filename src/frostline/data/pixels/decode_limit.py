"""Limits on the bytes of files and of pixels that are decoded at the same time in one process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

# Eight threads with two pictures of 12 megapixels each; the largest pictures one at a time. A choice.
MOST_BYTES = 2**31
MOST_FILE_BYTES = 2**29  # likewise of encoded files, whose decoding waits for room: 50 photographs of 10 MB

_pipeline = threading.local()  # `.rooms`: what this thread gives back at the end of `used_up`


class InFlight:
    """Bytes that are being decoded. One picture that is larger than all may be is decoded alone."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.largest = 0  # the most there ever was at once
        self._bytes = 0
        self._changed = threading.Condition()

    @contextmanager
    def room_for(self, size_bytes: int) -> Iterator[None]:
        """A block that holds so many bytes; it begins once there is room for them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes or self._bytes + size_bytes <= self.most_bytes)
            self._bytes += size_bytes
            self.largest = max(self.largest, self._bytes)
        try:
            yield
        except BaseException:  # nothing is held, and who decodes in another way wants room again
            self._give_back(size_bytes)
            raise
        rooms = getattr(_pipeline, "rooms", None)
        if rooms is None:
            self._give_back(size_bytes)
        else:
            rooms.append((self, size_bytes))

    def _give_back(self, size_bytes: int) -> None:
        with self._changed:
            self._bytes -= size_bytes
            self._changed.notify_all()

    def reset(self) -> None:
        """Forget what is held: in a forked process, whose threads are gone."""
        self.__init__(self.most_bytes)  # type: ignore[misc]


@contextmanager
def used_up() -> Iterator[None]:
    """A block that ends when this thread has used one decoded picture: only then its room is given back.

    Of each kind of room a thread may take one within: a second could wait for the first for ever.
    """
    rooms: list[tuple[InFlight, int]] = []
    _pipeline.rooms = rooms
    try:
        yield
    finally:
        _pipeline.rooms = None
        for in_flight, size_bytes in rooms:
            in_flight._give_back(size_bytes)


class PillowsLimit:
    """Pillow's own limit on pixels, raised inside a block, for several threads."""

    def __init__(self) -> None:
        self._lock, self._blocks, self._own = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    @contextmanager
    def raised_to(self, pixels: int) -> Iterator[None]:
        """A block in which Pillow neither warns of, nor refuses, an image of so many pixels."""
        with self._lock:
            if not self._blocks:
                self._own = Image.MAX_IMAGE_PIXELS
            self._blocks += 1
            Image.MAX_IMAGE_PIXELS = max(pixels, Image.MAX_IMAGE_PIXELS or 0)
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    Image.MAX_IMAGE_PIXELS = self._own


PILLOWS_LIMIT = PillowsLimit()
IN_FLIGHT = InFlight()
FILES_IN_FLIGHT = InFlight(MOST_FILE_BYTES)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=IN_FLIGHT.reset)
    os.register_at_fork(after_in_child=FILES_IN_FLIGHT.reset)
