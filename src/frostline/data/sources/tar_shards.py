"""Tar shards in the WebDataset layout, here or at an address: `key.jpg` beside `key.cls` or `key.json`.

A shard is looked through once for where its members begin, never unpacked; an image is then read from its
place in the shard, by a range request where the shard is far.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from frostline.data.labels import read_labels
from frostline.data.manifest_entries import SkippedImage
from frostline.data.pixels import formats
from frostline.data.sources.common import ImageEntry, Source, listing
from frostline.data.sources.remote import (
    MAX_OBJECT_BYTES,
    Fetcher,
    ImageLocation,
    filesystem,
    is_address,
    masked,
    patiently,
    place_of,
    refusal,
)
from frostline.errors import DataError

LABEL_SUFFIXES = (".cls", ".txt")  # WebDataset's own name for a class, and what people write instead
JSON_NAMES = ("label", "cls", "class", "class_name")
MAX_LABEL_BYTES = 1 << 20  # a label file larger than this is none

ENDING = ".tar"


def is_shards(text: str) -> bool:
    """Return whether a path or address names one tar shard, or several by `*` or `?`."""
    return text.endswith(ENDING)


def is_member(name: str) -> bool:
    """Return whether a shown name is one of an image in a shard."""
    return f"{ENDING}!" in name


def read_shards(text: str) -> Source:
    """List the labelled images of one shard or of all that a pattern such as `photos-*.tar` names.

    Raises:
        DataError: there is none, one cannot be read, or nothing in them has a label.
    """
    address = text if is_address(text) else f"file://{text}"
    fetcher = Fetcher()
    source = Source(
        None,
        items=fetcher,
        key=fetcher.key,
        hint="Expected key.jpg beside key.cls or key.json in each shard.",
    )
    for shard in _matching(address):
        _read_shard(shard, source, fetcher)
    if not source.images:
        lines = [f"{image.path} {image.reason}" for image in source.skipped]
        raise DataError(f"{masked(text)} holds no labelled image. {source.hint}{listing(lines)}")
    return source


def images_in(text: str, fetcher: Fetcher) -> list[str]:
    """Return the names of all images in one shard, or in those of a pattern, noted with `fetcher`.

    Labels beside them are of no interest. Raises `DataError` where there is no image.
    """
    address, names = text if is_address(text) else f"file://{text}", []
    for shard in _matching(address):
        shard_name = masked(shard).removeprefix("file://")
        names += [
            fetcher.add(f"{shard_name}!{path}", place) for path, place, _ in _looked_through(shard) if place
        ]
    if not names:
        raise DataError(f"{masked(text)} holds no image.")
    return names


def _matching(address: str) -> list[str]:
    def find() -> list[str]:
        system, path = filesystem(address)
        names = sorted(system.glob(path)) if set("*?[") & set(path) else [path]
        return [system.unstrip_protocol(name) for name in names]

    try:
        shards = patiently(address, find)
    except (FileNotFoundError, PermissionError) as error:
        raise refusal(address, error) from None
    if not shards:
        raise DataError(f"No shard matches {masked(address)}.")
    return shards


def _read_shard(address: str, source: Source, fetcher: Fetcher) -> None:
    """Add one shard's images, each with its label."""
    name, members = masked(address).removeprefix("file://"), _looked_through(address)
    label_of = iter(
        read_labels(value for path, place, value in members if place is None and _says_label(path))
    )
    samples, whole = list[_Sample](), dict[str, _Sample]()
    for path, place, _ in members:
        key = _key(path)
        if not samples or samples[-1].key != key:
            samples.append(_Sample(key))
        label = next(label_of) if place is None and _says_label(path) else None
        for sample in (samples[-1], whole.setdefault(key, _Sample(key))):
            sample.add(path, label, is_image=place is not None)
    sample_of = (sample for sample in samples for _ in range(sample.files))
    for (path, place, text), sample in zip(members, sample_of, strict=True):
        image_name = f"{name}!{path}"
        if place is None:
            if not _says_label(path):
                source.skipped.append(SkippedImage(image_name, "", text))
            continue
        labels = (sample if sample.labels else whole[sample.key]).labels_of(path)
        if len(labels) == 1:
            source.images.append(ImageEntry(fetcher.add(image_name, place), labels[0]))
            continue
        reason = "has no label beside it (.cls or .json)"
        if labels:
            reason = f"has {len(labels)} labels beside it, {', '.join(map(repr, labels[:3]))}; expected one"
        source.skipped.append(SkippedImage(image_name, "", reason, "unlabelled"))


@dataclass
class _Sample:
    """Files that share a key and follow each other, as WebDataset demands; or all of a shard with a key.

    Where names hold more dots, so that several samples share a key, images have the labels of their own name.
    """

    key: str
    files: int = 0
    images: set[str] = field(default_factory=set)  # names without their last ending
    labels: dict[str, list[str]] = field(default_factory=dict)  # by such names

    def add(self, path: str, label: str | None, *, is_image: bool) -> None:
        self.files += 1
        if is_image:
            self.images.add(_stem(path))
        elif label is not None:
            self.labels.setdefault(_stem(path), []).append(label)

    @cached_property
    def _of_all(self) -> list[str]:
        """The labels of an image in a sample whose images don't have the names of its labels."""
        if self.images & self.labels.keys():
            return _different(self.labels.get(self.key, []))
        return _different(label for labels in self.labels.values() for label in labels)

    def labels_of(self, path: str) -> list[str]:
        """Return the different labels of an image, once all files are added: one, if all is well."""
        own = self.labels.get(_stem(path))
        return _different(own) if own else self._of_all


def _different(labels: Iterable[str]) -> list[str]:
    """Return the different labels; "" only where nothing else is said, as by a .json behind a .cls."""
    different = list(dict.fromkeys(labels))
    return [label for label in different if label] or different


def _looked_through(address: str) -> list[tuple[str, ImageLocation | None, Any]]:
    try:
        return patiently(address, lambda: list(_members(address)))
    except (FileNotFoundError, PermissionError) as error:
        raise refusal(address, error) from None


def _members(address: str) -> Iterator[tuple[str, ImageLocation | None, Any]]:
    """Yield (path, place, "") of images, (path, None, label) of labels, (path, None, reason) of the rest."""
    system, path = filesystem(address)
    shard = place_of(address, system.info(path))
    with system.open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep every one
                    parsed = _member(tar, member, shard)
                    if parsed:
                        yield parsed
        except tarfile.TarError as error:
            raise DataError(
                f"{masked(address)} is not a plain tar file, or is truncated ({error}). "
                "Rewrite a compressed one without compression: its members have no fixed position."
            ) from error


def _begins_as_picture(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    file = tar.extractfile(member)
    return file is not None and formats.is_picture(file.read(formats.HEAD_BYTES))


def _member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, shard: ImageLocation
) -> tuple[str, ImageLocation | None, Any] | None:
    path = PurePosixPath(member.name)
    if member.isdir() or path.name.startswith("."):
        return None
    if not member.isreg() or member.issparse():
        return _refused(member.name, "is a link or a device in a tar shard, not a file")
    if path.is_absolute() or ".." in path.parts:
        return _refused(member.name, "has a name that leads out of its shard")
    if _says_label(member.name):
        return (member.name, None, _label(tar, member)) if member.size <= MAX_LABEL_BYTES else None
    if path.suffix.lower() not in formats.suffixes() and not _begins_as_picture(tar, member):
        return None
    if member.size > MAX_OBJECT_BYTES:
        return _refused(
            member.name, f"has {member.size:,} bytes; more than {MAX_OBJECT_BYTES:,} are not read"
        )
    place = ImageLocation(shard.address, member.size, member.offset_data, shard.version)
    return member.name, place, ""


def _refused(name: str, reason: str) -> tuple[str, None, str]:
    return f"{name} ", None, reason  # the space keeps it from being confused with a label file


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    """Return what a label file says, a text or any value of JSON; "" where it says nothing."""
    file = tar.extractfile(member)
    text = file.read().decode("utf-8", "replace").strip() if file else ""
    if not member.name.endswith(".json"):
        return text
    try:
        content: Any = json.loads(text)
    except ValueError:
        return ""
    values = [content.get(name) for name in JSON_NAMES] if isinstance(content, dict) else []
    return next((value for value in values if value is not None), "")


def _says_label(path: str) -> bool:
    return path.endswith((*LABEL_SUFFIXES, ".json"))


def _stem(path: str) -> str:
    """Return a path without the last ending of its name."""
    return str(PurePosixPath(path).with_suffix(""))


def _key(path: str) -> str:
    """Return what a sample's files share: the path up to the first dot of the name."""
    folder, slash, name = path.strip().rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"
