"""Images at addresses that fsspec knows: `s3://`, `gs://`, `https://`, `memory://`, `file://`.

An image is fetched when it is read, and not stored. Credentials are the libraries' own business: an
address is shown, kept and remembered without user, password, query and fragment (`masked`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from frostline.data.digest_cache import FileKey
from frostline.data.pixels import decoding, formats
from frostline.data.sources.common import ImageEntry, Source, outside
from frostline.data.sources.file_listing import is_hidden
from frostline.data.sources.folder_layout import SplitNames, Tree, layout_of
from frostline.errors import DamagedImage, DataError, MissingImage, RunWarning

MISSING = "Images at addresses need fsspec and tenacity: pip install 'frostline[remote]'"

# Tries of one read, and the seconds waited between them: doubling from the first to at most the second, with
# some chance in them so that many readers do not come back at once. Not measured.
TRIES = 5
WAIT_S = (0.2, 8.0)

# An object larger than this is no picture: the decoder takes no more than a quarter of a gigabyte of pixels.
MAX_OBJECT_BYTES = 256 * 1024 * 1024

# What listings call the thing that changes with an object's content, in the order in which they are trusted.
VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "Last-Modified", "created")

# Where the libraries look for credentials, for the most used schemes.
CREDENTIALS = {
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or the machine's role",
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS",
}

T = TypeVar("T")


def is_address(text: str) -> bool:
    """Return whether a text is an address such as s3://bucket/key, rather than a path."""
    scheme, mark, rest = text.partition("://")
    return bool(mark and rest) and scheme.replace("+", "").isalnum() and len(scheme) > 1


def masked(address: str) -> str:
    """Return an address without what may be secret: user, password, query and fragment."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    if scheme not in ("http", "https"):  # "?" and "#" may be part of an object's name
        host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """The location of an image's bytes: a whole object, or `size_bytes` of it from `offset` on."""

    address: str
    size_bytes: int | None = None  # None = not known before it is read
    offset: int | None = None  # of a member of a tar shard
    version: str = ""  # what changes with the content; "" = not known

    @property
    def start(self) -> tuple[str, int | None]:
        """Where the bytes begin: members of one shard share an address."""
        return self.address, self.offset


@dataclass
class Fetcher:
    """Reads images by the names that are shown for them. `root` is where other names are files."""

    root: Path | None = None
    places: dict[str, ImageLocation] = field(default_factory=dict)

    def add(self, name: str, place: ImageLocation) -> str:
        """Note where an image lies; return the name it goes by, which no other image has."""
        unique_name, count = name, 1
        while self.places.setdefault(unique_name, place).start != place.start:
            count += 1
            unique_name = f"{name}#{count}"
        return unique_name

    def __call__(self, name: str) -> bytes:
        """Return an image's bytes. Raises `DamagedImage` where it is gone, `DataError` after all tries."""
        place = self.places.get(name)
        if place is None:
            return decoding.read_bytes((self.root or Path()) / name)
        if (place.size_bytes or 0) > MAX_OBJECT_BYTES:
            raise DamagedImage(f"has {place.size_bytes:,} bytes; more than {MAX_OBJECT_BYTES:,} are not read")
        try:
            return patiently(place.address, lambda: _read_bytes(place))
        except FileNotFoundError as error:
            raise MissingImage("does not exist") from error
        except PermissionError as error:
            raise DamagedImage("may not be read (no permission)") from error

    def key(self, name: str) -> FileKey | None:
        """Return what tells that an image is unchanged without reading it, where the listing has it."""
        place = self.places.get(name)
        if place is None or not place.version or place.size_bytes is None:
            return None
        identity = f"{masked(place.address)} {place.offset}".encode()
        version = int.from_bytes(hashlib.sha256(place.version.encode()).digest()[:7], "big")
        return FileKey(identity, place.size_bytes, version)


def read_remote_folder(address: str, split_names: SplitNames = None, groups_inside: bool = False) -> Source:
    """List the images below an address: a folder per class, or train/ val/ test/ with those inside.

    `split_names` says which folders are which subset, where their names don't; `groups_inside` that folders
    below classes are groups (`folder_layout`).

    Raises:
        DataError: it cannot be listed, or holds no image in a folder.
    """
    listing = listed(address)
    root = masked(address).rstrip("/")
    fetcher = Fetcher()
    source = Source(None, items=fetcher, key=fetcher.key, hint=f"Only images in folders below {root} count.")
    names = [name for name in sorted(listing) if _is_visible(name)]
    layout = layout_of(Tree.of(names), root, split_names, groups_inside)
    source.findings += layout.findings
    for name in names:
        path_parts = tuple(name.split("/"))
        image_name = fetcher.add(f"{root}/{name}", listing[name])
        for path, subset in layout.classes_in.items():
            if path_parts[: len(path)] == path and len(path_parts) > len(path) + 1:
                source.images.append(ImageEntry(image_name, path_parts[len(path)], split=subset))
                break
        else:
            source.skipped.append(outside(image_name))
    if not source.images:
        raise DataError(
            f"{root} holds no image in a class folder; expected CLASS/image.jpg, or train/CLASS/image.jpg."
        )
    return source


def images_below(address: str, fetcher: Fetcher) -> list[str]:
    """Return the names of all images below an address, by class or not, noted with `fetcher`; sorted.

    Raises `DataError` where it cannot be listed, or where there is none.
    """
    listing, root = listed(address), masked(address).rstrip("/")
    names = [name for name in sorted(listing) if _is_visible(name) and _is_picture(name)]
    if not names:
        endings = ", ".join(sorted(formats.suffixes()))
        raise DataError(f"{root} holds no image; expected names ending in {endings}.")
    return [fetcher.add(f"{root}/{name}", listing[name]) for name in names]


def listed(address: str) -> dict[str, ImageLocation]:
    """Return every object below an address, by its path from there."""

    def find() -> dict[str, ImageLocation]:
        system, root = filesystem(address)
        objects = system.find(root, detail=True)
        below = root.rstrip("/") + "/"
        return {
            name.removeprefix(below): place_of(system.unstrip_protocol(name), info)
            for name, info in objects.items()
        }

    try:
        return patiently(address, find)
    except (FileNotFoundError, PermissionError) as error:
        raise refusal(address, error) from None


def refusal(address: str, error: Exception) -> DataError:
    """Return what to say of an address that does not exist, or that may not be read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{masked(address).removeprefix('file://')} does not exist.")
    scheme = address.partition("://")[0]
    if scheme == "file":
        return DataError(f"{masked(address).removeprefix('file://')} may not be read (no permission).")
    credential_hint = CREDENTIALS.get(scheme, f"where fsspec's library for {scheme}:// looks for them")
    return DataError(
        f"{masked(address)} may not be read: credentials are missing, wrong, or without the right to it. "
        f"They are taken from: {credential_hint}."
    )


def place_of(address: str, info: Mapping[str, Any]) -> ImageLocation:
    """Return what a listing says of an object."""
    version = next((f"{name} {info[name]}" for name in VERSIONS if info.get(name)), "")
    size = info.get("size")
    return ImageLocation(address, None if size is None else int(size), version=version)


def filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it. Each process gets one of its own."""
    try:
        import fsspec
        import tenacity  # noqa: F401  (reported here, before anything is read)
    except ImportError as error:
        raise DataError(MISSING) from error
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:  # the library for this scheme
        scheme = address.partition("://")[0]
        more = MISSING if scheme == "s3" else f"Install what fsspec needs for {scheme}://: {error}"
        raise DataError(more) from error
    except ValueError as error:
        schemes = "s3://, gs://, https://, file://"
        raise DataError(
            f"{masked(address)} has a scheme that fsspec does not know; try {schemes}."
        ) from error
    return system, str(path)


def patiently(address: str, work: Callable[[], T]) -> T:
    """Do `work`, again after a pause where the other side or the line fails; say so once a process.

    Raises `FileNotFoundError` and `PermissionError` at once, `DataError` after `TRIES` tries, and at once
    where there are no credentials.
    """
    filesystem(address)
    import tenacity

    again = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_random_exponential(multiplier=WAIT_S[0], max=WAIT_S[1]),
        retry=tenacity.retry_if_exception(_passing),
        before_sleep=lambda state: _say(address),
        reraise=True,
    )
    try:
        result: T = again(work)
        return result
    except (FileNotFoundError, PermissionError, DataError):
        raise
    except Exception as error:  # each library has its own; its words may hold a signed address
        if _lacks_credentials(error):
            raise refusal(address, error) from None
        raise DataError(
            f"{masked(address)} could not be read in {TRIES} tries ({type(error).__name__}). "
            "Check the connection and the credentials; the same command resumes."
        ) from None


def _passing(error: BaseException) -> bool:
    """Return whether another try may help."""
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, DataError)
    passing = isinstance(error, Exception) and not isinstance(error, lasting)
    return passing and not _lacks_credentials(error)


def _lacks_credentials(error: BaseException) -> bool:
    """Tell if the library found none: botocore, google-auth and azure each have a class of their own."""
    return "Credential" in type(error).__name__


_said: set[str] = set()


def _say(address: str) -> None:
    host = masked(address).partition("://")[2].partition("/")[0]
    if host not in _said:
        _said.add(host)
        warnings.warn(
            f"Reading from {host} failed and is tried again (reported once).", RunWarning, stacklevel=2
        )


def _read_bytes(place: ImageLocation) -> bytes:
    """Read one image; fewer bytes than there should be are a failure."""
    system, path = filesystem(place.address)
    if place.offset is None:
        content = system.cat_file(path)
        short = len(content) < (place.size_bytes or 0)
        if short and system.info(path).get("size") != len(content):  # else it changed: its digest will tell
            raise OSError(f"{len(content)} of {place.size_bytes} bytes arrived")
    else:
        content = system.cat_file(path, start=place.offset, end=place.offset + (place.size_bytes or 0))
        if len(content) != place.size_bytes:
            raise OSError(f"{len(content)} of {place.size_bytes} bytes arrived")
    return bytes(content)


def _is_visible(name: str) -> bool:
    return not any(is_hidden(path_part) for path_part in name.split("/")) and not name.endswith("/")


def _is_picture(name: str) -> bool:
    """Tell if a name is meant for a picture, or says nothing: then the content decides when it is fetched."""
    ending = PurePosixPath(name.lower()).suffix
    return not ending or ending in formats.suffixes()
