"""From samples to batches of pixels: decoded once where memory allows, augmented view by view.

A batch is uint8 of shape (n, 3, size, size). It holds (position, view) pairs: view 0 is the checkpoint's
evaluation transform, `MIRRORED` the same seen in a mirror, `TURNED` by a quarter turn; view 1, 2, … are
seeded augmentations.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import shutil
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from frostline.data import Manifest, Sample
from frostline.data.decoding_threads import AUTO, Workers, decode_in_turn, decoding_threads
from frostline.data.pixels import decode_limit
from frostline.distributed.torchrun_env import launched
from frostline.errors import FrostlineError, RunWarning, option
from frostline.feature_extraction.augmentation import Policy, SeededView, Transform
from frostline.feature_extraction.jpeg_decoding import decoded, torchcodecs_decoder
from frostline.feature_extraction.ordered_threads import AHEAD, between_pauses, mapped
from frostline.feature_extraction.random_transforms import Pixels, size_of
from frostline.models import Preprocessing
from frostline.models.resizing import fast_name
from frostline.sentences import counted
from frostline.system import devices
from frostline.system.thread_pools import thread_pool

# Decoded pictures may take this share of the memory that is free when a run begins. What is over it is
# decoded again in each epoch.
KEPT_SHARE = 0.15
# Images a forward pass without gradients. lite0 at 224 px in bfloat16 on two cores: 4.8 ms an image in
# batches of 8, 4.2 of 16, 4.0 of 32, 3.9 of 64, 3.8 of 128, which need twice the memory (2026-11-30).
EVALUATION_BATCH = 64
# The same on an NVIDIA GPU, which smaller ones leave idle: a ResNet-50's forward pass on one H200 made 15,340
# images a second in batches of 256, and 4,740 in batches of 32 (docs/gpu.md).
CARD_BATCH = 256

# Where Linux keeps what processes hand to each other, 64 MB in a container as it comes; and batches of each
# process that lie there: torch's DataLoader lets each work two ahead, and one more is being taken.
SHARED_MEMORY = "/dev/shm"
SHARED_BATCHES = 3

T = TypeVar("T")
R = TypeVar("R")
Item = tuple[int, int]  # (position in the samples, view)
# Pixels: "reference" are decoded whole and resized by Pillow, as everything that a model is judged or chosen
# by; "fast" are resized by torch, and large JPEGs decoded at a fraction of their size that leaves this many
# times the pixels a side that the network will see.
PIXELS = ("auto", "reference")
FAST_MARGIN = 2
MIRRORED, TURNED = -1, -2  # views
VIEW_NAMES = {MIRRORED: "mirrored", TURNED: "turned"}  # as they are named in a row's key


_holding = threading.Lock()  # of what `Images` hold in memory; a process that was forked gets a free one
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: globals().update(_holding=threading.Lock()))


@dataclass
class PassRates:
    """What images cost on their way into a network: seconds of decoding, and of the passes that take them.

    Nothing waits for a GPU to be counted. A step there is counted where the processor waits for it.

    Attributes
    ----------
    decoded : int
        Views that were made of a picture, each decoded or from a decoded one in memory.
    decoding_s : float
        Seconds of that, added up over threads. A person's own code in other processes is not counted.
    passed : int
        Images that passes took.
    passing_s : float
        Seconds the passes took with them.
    waited_s : float
        Seconds the passes waited for pixels.
    by_torchcodec : int
        Pictures that torchcodec decoded; Pillow decoded the others.
    """

    decoded: int = 0
    decoding_s: float = 0.0
    passed: int = 0
    passing_s: float = 0.0
    waited_s: float = 0.0
    by_torchcodec: int = 0

    def add_by_torchcodec(self) -> None:
        """Count one picture; called by several threads."""
        with _holding:
            self.by_torchcodec += 1

    def add_decoded(self, seconds: float) -> None:
        """Count one view; called by several threads."""
        with _holding:
            self.decoded, self.decoding_s = self.decoded + 1, self.decoding_s + seconds

    def of_pass(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield the batches, counting the seconds until each is there and those until the next is wanted."""
        requested_s = time.perf_counter()
        for batch in batches:
            arrived_s = time.perf_counter()
            self.waited_s += arrived_s - requested_s
            yield batch
            requested_s = time.perf_counter()
            self.passed, self.passing_s = self.passed + len(batch), self.passing_s + requested_s - arrived_s

    def __add__(self, other: PassRates) -> PassRates:
        """Return the sums."""
        return PassRates(
            self.decoded + other.decoded,
            self.decoding_s + other.decoding_s,
            self.passed + other.passed,
            self.passing_s + other.passing_s,
            self.waited_s + other.waited_s,
            self.by_torchcodec + other.by_torchcodec,
        )

    def as_dict(self, workers: int) -> dict[str, Any]:
        """Return images a second of decoding by so many threads and of the passes, and seconds waited."""
        decoding = self.decoded * max(1, workers) / self.decoding_s if self.decoding_s else None
        return {
            "images_per_s": None if decoding is None else round(decoding, 1),
            "network_images_per_s": round(self.passed / self.passing_s, 1) if self.passing_s else None,
            "waited_s": round(self.waited_s, 3),
            "by_torchcodec": self.by_torchcodec,
        }

    def starved(self, workers: int, device: str) -> str:
        """Say that a GPU waited longer for pixels than it computed; "" where it did not."""
        if device.startswith("cpu") or self.waited_s <= self.passing_s:
            return ""
        return (
            f"{device} waited {self.waited_s:.0f} s for pixels and computed {self.passing_s:.0f} s: "
            f"decoding by {counted(max(1, workers), 'thread')} is too slow for it. Give more "
            f"{option('workers')}, smaller files, or a machine with more cores."
        )


@dataclass
class Room:
    """Bytes that pictures may still take in memory, of all subsets together."""

    free: int

    @classmethod
    def of_machine(cls) -> Room:
        """Return a share of the memory that is free now."""
        return cls(int(psutil.virtual_memory().available * KEPT_SHARE / launched().local_size))


class Images(Dataset[Tensor]):
    """The pixels of some samples of a manifest, under one preprocessing and one augmentation policy."""

    def __init__(
        self,
        manifest: Manifest,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        *,
        policy: Policy | None = None,
        custom: Callable[[Image.Image], Any] | None = None,
        custom_name: str = "",
        seed: int = 0,
        fast: bool = False,
        room: Room | None = None,
    ) -> None:
        self.manifest = manifest
        self.samples = tuple(samples)
        self.preprocessing = preprocessing
        self.policy = policy or Policy("none")
        self._fast = fast and preprocessing.resizes_fast  # views are resized by torch
        transform = Transform(self.policy, preprocessing, custom, fast=self._fast)
        self._view = SeededView(transform, seed)
        # A person's own code: it may not bear several threads, and draws on the global random state.
        self._runs_own_code = custom is not None or manifest.items is not None
        self._augmentation = f"{self.policy.describe(preprocessing)} {custom_name} seed {seed}"
        # pixels a side that decoding leaves: of the evaluation view, and of augmented ones; 0: whole pictures
        self._sides = _fast_sides(preprocessing, self.policy, custom is None) if fast else (0, 0)
        # Pictures are decoded to tensors, where nothing but our own steps is done to them.
        self._as_tensors = self._fast and custom is None and self.policy.rotate == "none"
        self._decoded: dict[int, Pixels] = {}
        self._still: dict[int, Tensor] = {}  # view 0, which every epoch would compute anew
        self._looked_at_again = False
        self.rates = PassRates()  # shared by subsets
        self._room = room or Room.of_machine()  # shared by subsets, too

    def subset(self, part: slice) -> Images:
        """Return a part of the images; all of them are these themselves, with what they hold in memory."""
        if part.indices(len(self)) == (0, len(self), 1):
            return self
        return self._of(range(*part.indices(len(self))))

    def evenly(self, most: int) -> Images:
        """Return up to `most` of the images, evenly taken; all of them are these themselves."""
        return self if len(self) <= most else self._of(evenly(len(self), most).tolist())

    def _of(self, places: Sequence[int]) -> Images:
        """Return the images of these places, with what is held of them in memory."""
        images = copy.copy(self)
        images.samples = tuple(self.samples[place] for place in places)
        images._decoded = {new: self._decoded[old] for new, old in enumerate(places) if old in self._decoded}
        images._still = {new: self._still[old] for new, old in enumerate(places) if old in self._still}
        return images

    def hold(self, most_bytes: int) -> Images:
        """Hold the evaluation view of the next images that are decoded, up to so many bytes; return itself.

        Passes that need pixels once hold them, too: for images that are looked at again.
        """
        self._looked_at_again, self._room = True, Room(min(self._room.free, most_bytes))
        return self

    def with_pixels_of(self, other: Images) -> Images:
        """Take over the evaluation views that other images hold of the same samples; return itself.

        Both see the same manifest under the same preprocessing.
        """
        place_of = {sample: place for place, sample in enumerate(self.samples)}
        for place, pixels in other._still.items():
            new = place_of.get(other.samples[place])
            if new is not None:
                self._still[new] = pixels
        return self

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: Item) -> Tensor:
        """Return one view, uint8 of shape (3, size, size). Raises `DamagedImage`."""
        return self._pixels(item, keep=True)

    def _pixels(self, item: Item, keep: bool) -> Tensor:
        position, view = item
        if view == MIRRORED:
            return _copied(np.flip(self._evaluation(position, keep).numpy(), axis=-1))
        if view == TURNED:
            return _copied(np.rot90(self._evaluation(position, keep).numpy(), axes=(-2, -1)))
        if view == 0 or self.policy.still:
            return self._evaluation(position, keep)
        began = time.perf_counter()
        pixels = _copied(self._view(self._augmentable(position), self.samples[position].digest, view).numpy())
        self.rates.add_decoded(time.perf_counter() - began)
        return pixels

    def pixels_name(self, item: Item) -> str:
        """Name what is done to an image: equal names, equal pixels."""
        position, view = item
        augmented = view > 0 and not self.policy.still
        fraction = self._fraction(position, self._sides[int(augmented)])
        return (
            self.view_name(view)
            + self.manifest.rendered(self.samples[position])
            + (f" jpeg 1/{fraction}" if fraction > 1 else "")
            + (f" {fast_name()}" if self._resizes_fast(position, augmented) else "")
        )

    @property
    def pixels(self) -> str:
        """The class of the pixels: "fast" where one picture's are, else "reference"."""
        augmented = not self.policy.still
        fast = any(
            self._resizes_fast(position, augmented)
            or any(self._fraction(position, side) > 1 for side in self._sides)
            for position in range(len(self))
        )
        return "fast" if fast else "reference"

    def _resizes_fast(self, position: int, augmented: bool) -> bool:
        """Return whether torch resizes a picture for its evaluation view, or for augmented ones."""
        if augmented or not self._fast:
            return self._fast
        size = self.manifest.size_of(self.samples[position])
        return 0 in size or self.preprocessing.resized_size(*size) != size

    def _fraction(self, position: int, side: int) -> int:
        return self.manifest.jpeg_fraction(self.samples[position], side) if side else 1

    def view_name(self, view: int) -> str:
        """Name what a view does to an image."""
        if view in VIEW_NAMES:
            return VIEW_NAMES[view]
        return "0" if view == 0 or self.policy.still else f"{self._augmentation} view {view}"

    def _evaluation(self, position: int, keep: bool) -> Tensor:
        pixels = self._still.get(position)
        if pixels is None:
            began = time.perf_counter()
            pixels = _copied(self.crop(self._image(position)).numpy())
            self.rates.add_decoded(time.perf_counter() - began)
            if keep:
                self._hold(self._still, position, pixels, pixels.numel())
        return pixels

    def _image(self, position: int) -> Pixels:
        """Return the picture that the evaluation view is made from."""
        fractions = [self._fraction(position, side) for side in self._sides]
        if self.policy.still or fractions[0] != fractions[1]:
            return self._read(position, self._sides[0])
        return self._augmentable(position)

    def crop(self, picture: Pixels) -> Tensor:
        """Return the evaluation view of a decoded picture."""
        return self.preprocessing.crop(picture, fast=self._fast)

    def decode(self, position: int) -> Pixels:
        """Return the picture that augmented views are made from, decoded anew."""
        return self._read(position, self._sides[1])

    def _augmentable(self, position: int) -> Pixels:
        """Return the picture that augmented views are made from, held in memory for the next."""
        image = self._decoded.get(position)
        if image is None:
            image = self.decode(position)
            self._hold(self._decoded, position, image, 3 * math.prod(size_of(image)))
        return image

    def _read(self, position: int, side: int) -> Pixels:
        sample, fraction = self.samples[position], self._fraction(position, side)
        if not self._as_tensors:
            return self.manifest.read(sample, *([side] if fraction > 1 else []))
        decoder = None if torchcodecs_decoder() is None else self._by_torchcodec
        array = self.manifest.read_pixels(sample, side if fraction > 1 else 0, decoder)
        return torch.from_numpy(array).permute(2, 0, 1)

    def _by_torchcodec(self, data: bytearray) -> NDArray[np.uint8]:
        pixels = decoded(data)
        self.rates.add_by_torchcodec()
        return pixels

    def _hold(self, held: dict[int, T], position: int, value: T, size_bytes: int) -> None:
        """Keep a value in memory, where there is room and no other thread has done so."""
        with _holding:
            if position not in held and size_bytes <= self._room.free:
                self._room.free -= size_bytes
                held[position] = value

    def batches(
        self, items: Iterable[Sequence[Item]], workers: Workers = 0, *, once: bool = False
    ) -> Iterator[Tensor]:
        """Yield one uint8 tensor (n, 3, size, size) per list of items, in order.

        With `once`, the evaluation view's pixels are not held in memory for another time.
        `workers` threads decode, ahead or in turn with who computes (`decode_in_turn`); the pixels don't
        depend on it. A person's own code (an augmentation, a dataset's items) runs in worker processes
        instead. `items` may be a generator: it is read as far ahead as the workers are, but past an empty
        list only once all before it is yielded.
        """
        workers = self.workers(workers)
        in_turn = self.decodes_in_turn(workers)
        keep = self._looked_at_again or not once

        def pixels(item: Item) -> Tensor:
            with decode_limit.used_up():
                return self._pixels(item, keep)

        for part in between_pauses(items):
            if workers == 0:
                for batch in part:
                    yield torch.stack([self._pixels(item, keep) for item in batch])
            elif self._runs_own_code:
                yield from self._from_processes(part, workers)
            else:
                for views in mapped(pixels, part, workers, in_turn=in_turn):
                    # By numpy: torch's threads would wait for more work on the cores that decode.
                    yield torch.from_numpy(np.stack([view.numpy() for view in views]))

    def workers(self, requested: Workers) -> int:
        """Return how many workers decode; "auto" runs no person's own code in other processes."""
        return 0 if requested == AUTO and self._runs_own_code else decoding_threads(requested)

    def decodes_in_turn(self, workers: int) -> bool:
        """Return whether so many workers decode only while nothing else computes."""
        return workers > 0 and not self._runs_own_code and decode_in_turn(workers)

    def _from_processes(self, items: Iterator[Sequence[Item]], workers: int) -> Iterator[Tensor]:
        first = next(items)
        items = itertools.chain([first], items)
        workers = _fitting(workers, len(first) * 3 * self.preprocessing.size**2)
        if workers == 0:
            for batch in items:
                yield torch.stack([self[item] for item in batch])
            return
        signals = _SignalsOfWorkers()
        loader: DataLoader[Tensor] = DataLoader(
            self,
            batch_sampler=_Lists(items, signals.ignore),  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=torch.stack,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # else the loader draws on the global state, and dropout differs
        )
        with warnings.catch_warnings():  # torch counts cores, and can't know that these wait for disks
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            try:
                yield from loader
            except FrostlineError as error:
                raise type(error)(_message_of(error)) from None
            except (ConnectionError, EOFError) as error:  # what a worker was about to hand over
                signals.keep_ignoring()
                raise RuntimeError(f"DataLoader worker is gone ({error!r})") from None
            except RuntimeError:  # a worker is dead, and torch's handler would say so once more
                signals.keep_ignoring()
                raise
            finally:
                signals.restore()

    def evaluation(self, batch: int, workers: Workers = 0) -> Iterator[Tensor]:
        """Yield view 0 of every sample, in order."""
        chunks = [range(i, min(i + batch, len(self))) for i in range(0, len(self), batch)]
        return self.batches([[(position, 0) for position in chunk] for chunk in chunks], workers)

    @property
    def targets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Class indices, shape (samples,)."""
        return np.asarray(self.manifest.targets(self.samples))


def _fast_sides(preprocessing: Preprocessing, policy: Policy, ours: bool) -> tuple[int, int]:
    """Return the pixels a side that decoding must leave for the evaluation view, and for augmented ones."""
    plain = FAST_MARGIN * math.floor(preprocessing.size / preprocessing.crop_pct)
    if not ours:  # a person's own augmentation is given whole pictures
        return plain, 0
    return plain, max(plain, math.ceil(FAST_MARGIN * preprocessing.size / policy.smallest_side))


def each_decoded(decode: Callable[[T], R], items: Iterable[T], workers: Workers = AUTO) -> Iterator[R]:
    """Yield what `decode` makes of each item, in order, decoded ahead by threads.

    For who needs pictures outside a training run: exports, checks. What an item raises is raised in its
    place; items that nobody waits for any more are not begun.

    Parameters
    ----------
    decode : callable
        From an item to what is held of its picture, called by several threads; it decodes one picture at
        most, whose room in memory is given back when it returns (`decode_limit.used_up`).
    items : iterable
        Read in the caller's thread, a few items ahead.
    workers : int or "auto"
        Threads that decode; 0 decodes here, when an item is needed.

    Yields
    ------
    object
        One result an item.
    """

    def bounded(item: T) -> R:
        with decode_limit.used_up():
            return decode(item)

    threads = decoding_threads(workers)
    if threads == 0:
        yield from map(bounded, items)
        return
    for (result,) in mapped(bounded, ([item] for item in items), threads):
        yield result


def _fitting(workers: int, batch_bytes: int) -> int:
    """Return as many processes as the machine's shared memory has room for, saying where that is fewer."""
    try:
        free_bytes = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # no Linux: shared memory has no limit of its own
        return workers
    fitting = min(workers, free_bytes // (SHARED_BATCHES * batch_bytes))
    if fitting < workers:
        warnings.warn(
            f"Shared memory ({SHARED_MEMORY}) has {free_bytes / 1e6:.0f} MB free, and {workers} processes "
            f"that decode would need {workers * SHARED_BATCHES * batch_bytes / 1e6:.0f} MB: {fitting} do it "
            "now. Give the container more (docker run --shm-size=2g), or smaller batches.",
            RunWarning,
            stacklevel=2,
        )
    return fitting


def evaluation_batch() -> int:
    """Return how many images pass at once without gradients, on the device that computes."""
    return CARD_BATCH if devices.current().type == "cuda" else EVALUATION_BATCH


class _Lists:
    """Batch sampler for torch's DataLoader that yields given lists once; `begin` runs before the first."""

    def __init__(self, items: Iterable[Sequence[Item]], begin: Callable[[], None]) -> None:
        self._items, self._begin = items, begin

    def __iter__(self) -> Iterator[Sequence[Item]]:
        self._begin()
        yield from self._items


class _SignalsOfWorkers:
    """Keeps torch's handler of SIGCHLD from raising while a loader is read.

    It raises wherever the main thread is just then: in a thread that is being started, which prints a
    traceback, or in an `__exit__`. Without it the loader finds a dead worker as it waits for a batch,
    within 5 seconds. torch sets the handler once a process, before the first loader asks for its first list.
    """

    def __init__(self) -> None:
        self._before: Any = None

    def ignore(self) -> None:
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGCHLD, lambda *_: None)

    def keep_ignoring(self) -> None:
        self._before = None

    def restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGCHLD, self._before)


def _message_of(error: FrostlineError) -> str:
    """Return an error's message without the worker's traceback that torch writes around it."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if "Original Traceback" in text else text


def _copied(pixels: np.ndarray[Any, Any]) -> Tensor:
    """Return a contiguous tensor: batches are stacked ten times as fast as from a picture's layout.

    numpy copies in this thread, where torch would start threads of its own.
    """
    return torch.from_numpy(np.ascontiguousarray(pixels))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def contact_sheet(images: Images, *, count: int = 16, columns: int = 4) -> Image.Image:
    """Return one picture of `count` augmented training images, as the network will see them."""
    side = images.preprocessing.size
    items = [(i % len(images), 1 + i // len(images)) for i in range(count)]
    sheet = Image.new("RGB", (columns * side, -(-count // columns) * side))
    for place, item in enumerate(items):
        picture = Image.fromarray(images[item].permute(1, 2, 0).numpy())
        sheet.paste(picture, ((place % columns) * side, (place // columns) * side))
    return sheet


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return the places of up to `most` of `count` images, evenly taken, in order."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def padded(batch: Tensor, size: int) -> Tensor:
    """Return a batch filled up to `size` rows with copies of its last row.

    Parameters
    ----------
    batch : Tensor, shape (n, …)
    size : int

    Returns
    -------
    Tensor, shape (max(n, size), …)
    """
    missing = size - len(batch)
    if missing <= 0:
        return batch
    return torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator, computed up to `AHEAD` items early in another thread."""
    end = object()
    with thread_pool(1) as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(AHEAD))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
