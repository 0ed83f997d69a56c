"""The Manifest: the path, label, content digest, group and subset of every labelled image. Immutable.

`loading` builds a manifest, `splits` divides it, `sample_reader` reads its images, `manifest_file` stores it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data import manifest_file
from frostline.data.findings import KINDS, Finding, first_examples
from frostline.data.manifest_entries import SUBSETS, Conflict, Sample, SkippedImage, demand_training_images
from frostline.data.pixels import pixel_digest
from frostline.data.pixels.cropping import CutAway, Size, cut_away
from frostline.data.pixels.decoding import JpegDecoder, Picture
from frostline.data.pixels.rendering import PLAIN, Rendering
from frostline.data.sample_reader import Items, SampleReader
from frostline.data.splits import folding, grouping, pinned_split, saved_splits, split_notes
from frostline.data.splits.grouping import Proposal
from frostline.data.splits.saved_splits import Folds
from frostline.data.splits.splitting import unit_keys
from frostline.errors import DataError, demand_kind
from frostline.progress import OnProgress, Progress
from frostline.system import directories

SHOWN_CLASSES = 6  # in a line

Pairs = folding.Pairs


@dataclass(frozen=True)
class Manifest:
    """Labelled images, split into train, val and test. Immutable.

    Attributes
    ----------
    root : Path or None
        Folder that relative sample paths start from; None for images in memory.
    samples : tuple of Sample
        The usable images.
    classes : tuple of str
        Class names, sorted.
    skipped : tuple of SkippedImage
        Skipped images, each with the reason.
    conflicts : tuple of Conflict
        Identical images with different labels.
    near_copies, suspects : tuple of pairs of str
        Paths of near copies that stay in one subset; all pairs that look alike.
    data_findings : tuple of Finding
        Findings about the images besides `skipped`.
    predefined : tuple of str
        Subsets that the source named; the others were drawn.
    shares : tuple of float or None
        Requested shares of test, and of val among the rest.
    reading : mapping of str to str
        Options that the source was read with, by name.
    seed : int or None
        Seed of the split.
    rendering : Rendering
        How deep and transparent pixels become RGB.
    kinds : mapping of str to str
        What an image contains, by digest, where `rendering` depends on it.
    learned : frozenset of str
        Digests of images that the model has learned from; they are never held out.
    sizes : mapping of str to (width, height)
        Upright sizes in pixels, by digest; empty in a manifest that was read back.
    earlier_folds : mapping of int to mapping of str to int
        Fold of each digest, by seed, from the study's record.
    learned_subsets : tuple of str
        Subsets whose images learn: train, and in a fold of cross-validation val, too, whose images learn in
        the other folds.
    items : callable or None
        Returns an image or a file's bytes by name, for images in memory.
    """

    root: Path | None
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]  # sorted
    skipped: tuple[SkippedImage, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    near_copies: tuple[tuple[str, str], ...] = ()  # pairs of paths that are kept in one subset
    suspects: tuple[tuple[str, str], ...] = ()  # every pair of paths that look alike, `near_copies` included
    data_findings: tuple[Finding, ...] = ()  # besides skipped images
    predefined: tuple[str, ...] = ()  # subsets that the source named itself; the others were drawn
    shares: tuple[float, float] | None = None  # drawn for test, and of the rest for val, as requested
    reading: Mapping[str, str] = field(default_factory=dict)  # option → its value, of how the source was read
    seed: int | None = None  # that they were drawn with
    rendering: Rendering = PLAIN  # how deep and transparent pixels are shown
    kinds: Mapping[str, str] = field(default_factory=dict)  # digest → what an image holds, where that matters
    learned: frozenset[str] = frozenset()  # digests that the model has learned from: never held out
    sizes: Mapping[str, Size] = field(default_factory=dict, compare=False, repr=False)  # by digest, upright
    earlier_folds: Folds = field(default_factory=dict, compare=False, repr=False)  # as a study remembers
    learned_subsets: tuple[str, ...] = field(default=("train",), compare=False, repr=False)
    items: Items | None = field(default=None, compare=False, repr=False)  # images handed over in memory

    def __repr__(self) -> str:
        """Return a line with the number of images, the classes and the subsets."""
        subsets = [f"{len(samples):,} {subset}" for subset in SUBSETS if (samples := self.subset(subset))]
        names = ", ".join(self.classes[:SHOWN_CLASSES]) + (", …" if self.classes[SHOWN_CLASSES:] else "")
        aside = f", {len(self.skipped):,} files skipped" if self.skipped else ""
        many = f"{len(self.samples):,} images of {len(self.classes):,} classes ({names})"
        return f"<Manifest: {many}: {', '.join(subsets)}{aside}>"

    @property
    def notes(self) -> tuple[str, ...]:
        """The findings as sentences; unusable files are in `skipped`."""
        return tuple(finding.note for finding in self.data_findings)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in the order of `KINDS`: `data_findings`, and skipped images, by kind."""
        findings = [
            finding for finding in self.data_findings if finding.kind != "unreadable"
        ]  # those are in `skipped`
        order = {kind: place for place, kind in enumerate(KINDS)}
        all_findings = [*findings, *split_notes.about_skipped(self.skipped)]
        return tuple(sorted(all_findings, key=lambda finding: order[finding.kind]))

    @cached_property
    def proposed_groups(self) -> Proposal | None:
        """Groups that the images' names give away, in the order of `samples`; None where they have groups."""
        return None if any(sample.group for sample in self.samples) else grouping.proposed(self.samples)

    def grouped(self, groups: Sequence[str]) -> Manifest:
        """Return the manifest with other groups; its subsets stay as they are.

        Parameters
        ----------
        groups : sequence of str
            One for each of `samples`, in their order; "" is no group.

        Returns
        -------
        Manifest
        """
        samples = zip(self.samples, groups, strict=True)
        return replace(self, samples=tuple(replace(sample, group=group) for sample, group in samples))

    def subset(self, name: str) -> tuple[Sample, ...]:
        """Return the samples of one subset, in the manifest's order.

        Parameters
        ----------
        name : str
            "train", "val" or "test".

        Returns
        -------
        tuple of Sample

        Raises
        ------
        DataError
            `name` is not "train", "val" or "test".
        """
        if name not in SUBSETS:
            raise DataError(f"Unknown subset {name!r}; expected one of {', '.join(SUBSETS)}.")
        return tuple(sample for sample in self.samples if sample.split == name)

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images of each class in each subset: `counts["cat"]["train"]`."""
        counter = Counter((sample.label, sample.split) for sample in self.samples)
        return {label: {subset: counter[label, subset] for subset in SUBSETS} for label in self.classes}

    def targets(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the class index of each sample.

        Parameters
        ----------
        samples : sequence of Sample

        Returns
        -------
        ndarray of int64, shape (n_samples,)
            Indices into `classes`.
        """
        index = {label: position for position, label in enumerate(self.classes)}
        return np.array([index[sample.label] for sample in samples], dtype=np.int64)

    def units(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return a unit id for each sample; samples of one unit (group, copies) must not be separated.

        Parameters
        ----------
        samples : sequence of Sample
            Of this manifest.

        Returns
        -------
        ndarray of int64, shape (n_samples,)
        """
        return np.array([self._unit_of_path[sample.path] for sample in samples], dtype=np.int64)

    def folds(self, samples: Sequence[Sample], k: int, seed: int) -> Pairs:
        """Return stratified cross-validation folds that keep units together.

        Images that the model has learned from, and their units, are held out in no fold. An image keeps the
        fold that a study remembers for the seed.

        Parameters
        ----------
        samples : sequence of Sample
            The images to fold.
        k : int
            Largest number of folds; fewer where classes or units do not allow `k`.
        seed : int
            Decides the folds, with each image's content.

        Returns
        -------
        list of (learn, hold)
            Positions into `samples` for each fold; empty where nothing can be held out.
        """
        before = self.earlier_folds.get(seed, {})
        moving = np.flatnonzero(~self.has_learned(samples))
        new_samples = [samples[at] for at in moving.tolist()]
        units = np.unique(self.units(new_samples), return_inverse=True)[1]
        keys = unit_keys(units, [s.group for s in new_samples], [s.digest for s in new_samples])
        earlier = np.array([before.get(sample.digest, -1) for sample in new_samples], dtype=np.int64)
        pairs = folding.folds(self.targets(new_samples), units, keys, k, seed, earlier)
        everything = np.arange(len(samples))
        return [(np.setdiff1d(everything, moving[hold]), moving[hold]) for _, hold in pairs]

    def has_learned(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return for each sample whether any image of its unit (group, copies) is in `learned`.

        Parameters
        ----------
        samples : sequence of Sample
            Of this manifest.

        Returns
        -------
        ndarray of bool, shape (n_samples,)
        """
        if not self.learned:
            return np.zeros(len(samples), dtype=bool)
        units = {self._unit_of_path[s.path] for s in self.samples if s.digest in self.learned}
        return np.array([self._unit_of_path[sample.path] in units for sample in samples], dtype=bool)

    def keeping(self, sides: Mapping[str, str]) -> Manifest:
        """Return the manifest with its drawn subsets drawn again, with these images' subsets fixed.

        Parameters
        ----------
        sides : mapping of str to str
            Subset by digest.

        Returns
        -------
        Manifest
            An equal manifest where nothing changes.

        Raises
        ------
        DataError
            The seed or shares are unknown, or a class is left without training images.
        """
        return pinned_split.redraw(self, sides)

    def keep_in(self, study: Path, folds: Folds | None = None) -> None:
        """Write the manifest into a study, and add each image's subset and fold to the study's record.

        Parameters
        ----------
        study : Path
            The study's folder.
        folds : mapping of int to mapping of str to int, or None
            Fold of each digest, by seed.
        """
        self.write(study / "manifest.jsonl")
        saved_splits.remember(study, {sample.digest: sample.split for sample in self.samples}, folds)

    def keep_folds(self, study: Path, samples: Sequence[Sample], pairs: Pairs, seed: int) -> None:
        """Add the fold of each sample to a study's record.

        Parameters
        ----------
        study : Path
            The study's folder.
        samples : sequence of Sample
            The images that were folded.
        pairs : list of (learn, hold)
            What `folds` returned for them.
        seed : int
            The seed that `folds` was called with.
        """
        saved_splits.remember(study, {}, {seed: folding.numbered(pairs, [s.digest for s in samples])})

    def recalled(self, study: Path) -> Manifest:
        """Return the manifest with the folds of a study's record, if it has one.

        Parameters
        ----------
        study : Path
            The study's folder.

        Returns
        -------
        Manifest

        Raises
        ------
        StudyError
            The record is damaged.
        """
        return replace(self, earlier_folds=saved_splits.read(study).folds)

    def read(self, sample: Sample, side_pixels: int = 0) -> Image.Image:
        """Return a sample's image as upright 8-bit RGB, rendered as `rendering` says.

        Parameters
        ----------
        sample : Sample
        side_pixels : int
            A JPEG may be decoded at a fraction of its size that leaves so many pixels a side; 0: whole.

        Raises
        ------
        DamagedImage
            Its pixels cannot be decoded; the digest is remembered as damaged.
        DataError
            The file changed or was removed since it was indexed.
        """
        return self._reader.picture(sample, side_pixels).rgb(self.rendering)

    def read_pixels(
        self, sample: Sample, side_pixels: int = 0, decoder: JpegDecoder | None = None
    ) -> NDArray[np.uint8]:
        """Return what `read` returns as an array.

        Parameters
        ----------
        sample : Sample
        side_pixels : int
            As in `read`.
        decoder : callable or None
            Decodes the bytes of a plain JPEG that is wanted whole, in Pillow's place: 8 bits, grey or three
            colours, not turned by EXIF. Where it raises `RuntimeError`, Pillow decodes.

        Returns
        -------
        ndarray of uint8, shape (height, width, 3)

        Raises
        ------
        DamagedImage, DataError
            As `read`.
        """
        decoder = None if sample.digest in self.kinds else decoder
        picture = self._reader.picture(sample, side_pixels, decoder)
        return np.array(picture.rgb(self.rendering)) if picture.pixels is None else picture.pixels

    def jpeg_fraction(self, sample: Sample, side_pixels: int) -> int:
        """Return n if `read` decodes a sample's JPEG at 1/n of its size.

        Parameters
        ----------
        sample : Sample
        side_pixels : int
            As in `read`.

        Returns
        -------
        int
            1, 2, 4 or 8.
        """
        return 1 if sample.digest in self.kinds else self._reader.jpeg_fraction(sample, side_pixels)

    def size_of(self, sample: Sample) -> Size:
        """Return a file's upright size in pixels, from its header where it was not indexed here.

        Parameters
        ----------
        sample : Sample

        Returns
        -------
        (int, int)
            Width and height; (0, 0) where they are not known, as of images without a file.
        """
        return self._reader.size(sample)

    def pixel_digest(self, sample: Sample) -> bytes:
        """Return the digest of a sample's pixels before `rendering`; it is cached.

        Parameters
        ----------
        sample : Sample

        Returns
        -------
        bytes
            8 bytes.

        Raises
        ------
        DamagedImage, DataError
            As in `read`.
        """
        return pixel_digest.digest_of(self._reader.picture(sample))

    def top_digest(self, sample: Sample) -> bytes:
        """Return the digest of the topmost pixels of a large JPEG; it is cached.

        Parameters
        ----------
        sample : Sample

        Returns
        -------
        bytes
            8 bytes; empty for any other image, for a progressive JPEG, and if those pixels have one colour.

        Raises
        ------
        DataError
            The file changed or was removed since it was indexed.
        """
        return self._reader.top_digest(sample)

    def picture(self, sample: Sample) -> Picture:
        """Return a sample decoded at its full size, before `rendering`.

        Parameters
        ----------
        sample : Sample

        Returns
        -------
        Picture

        Raises
        ------
        DamagedImage, DataError
            As in `read`.
        """
        return self._reader.picture(sample)

    def rendered(self, sample: Sample) -> str:
        """Return a name for what `rendering` does to a sample's pixels.

        Parameters
        ----------
        sample : Sample

        Returns
        -------
        str
            Equal names give equal pixels; empty if nothing is done.
        """
        return self.rendering.name_of(self.kinds.get(sample.digest, ""))

    def checked(self, progress: OnProgress | None = None) -> Manifest:
        """Decode every image not yet known to be sound, and return a manifest without the damaged ones.

        Parameters
        ----------
        progress : callable or None
            Called with (what, done, total).

        Raises
        ------
        DataError
            A class is left without a training image.
        """
        faults = self._reader.faults(self.samples, Progress.of(progress))
        if not faults:
            return self
        damaged = [sample for sample in self.samples if sample.digest in faults]
        moved = [SkippedImage(sample.path, sample.label, faults[sample.digest]) for sample in damaged]
        usable = tuple(sample for sample in self.samples if sample.digest not in faults)
        demand_training_images(usable, self.classes, moved)
        note = f"{len(moved)} more image(s) skipped: decoding showed them to be damaged."
        finding = Finding(
            "unreadable", len(moved), note, examples=first_examples(gone.path for gone in moved)
        )
        return pinned_split.with_samples(self, usable, moved, [finding])

    def cut_away(self, resize: str = "crop", crop_pct: float = 1.0) -> CutAway:
        """Return how much of the images a preprocessing removes.

        A manifest that was read back has no `sizes`, and the result is then of no image.

        Parameters
        ----------
        resize : str
            How images become square: "crop", "squash" or "pad", or a `Preprocessing`'s `crop_mode`.
        crop_pct : float
            Share of a side that the crop includes, above 0 and at most 1.

        Returns
        -------
        CutAway

        Raises
        ------
        UsageError
            `resize` is unknown.
        """
        sizes = {s.path: self.sizes[s.digest] for s in self.samples if s.digest in self.sizes}
        return cut_away(sizes, resize, crop_pct)

    def framed(self, resize: str = "crop", crop_pct: float = 1.0) -> Manifest:
        """Return the manifest with the finding about what a preprocessing removes, in place of earlier ones.

        Parameters
        ----------
        resize : str
            As in `cut_away`.
        crop_pct : float
            As in `cut_away`.

        Returns
        -------
        Manifest

        Raises
        ------
        UsageError
            `resize` is unknown.
        """
        if not self.sizes:
            return self
        other_findings = tuple(finding for finding in self.data_findings if finding.kind != "cut_away")
        finding = self.cut_away(resize, crop_pct).finding
        return replace(self, data_findings=(*other_findings, finding) if finding else other_findings)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over contents, labels and groups, and the rendering; order, names and root have no say."""
        return _digest_rows(
            [*((sample.digest, sample.label, sample.group) for sample in self.samples), *self._rendering_rows]
        )

    @cached_property
    def split_digest(self) -> str:
        """SHA-256 over what `digest` covers and the subset each image is in."""
        rows = ((sample.digest, sample.label, sample.group, sample.split) for sample in self.samples)
        return _digest_rows([*rows, *self._rendering_rows])

    @property
    def _rendering_rows(self) -> list[tuple[str, ...]]:
        """A row for a digest where the rendering is not the plain one."""
        return [] if self.rendering.plain else [("rendering", json.dumps(self.rendering.decisions))]

    @cached_property
    def test_digest(self) -> str:
        """SHA-256 over the test set's contents and labels."""
        return _digest_rows((sample.digest, sample.label) for sample in self.subset("test"))

    def to_json(self) -> str:
        """Return the manifest as JSON Lines: a header, then a sample a line. `items` is left out."""
        return manifest_file.text_of(self)

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Return the manifest that `to_json` wrote; the images need not exist.

        Parameters
        ----------
        text : str
            JSON Lines.

        Returns
        -------
        Manifest

        Raises
        ------
        DataError
            The text is not a manifest, or was truncated or edited.
        """
        header, rows = manifest_file.parse(text)
        try:
            manifest = Manifest(**manifest_file.fields_of(header, rows))
            manifest_file.demand_plain(manifest)
            digests_match = (manifest.digest, manifest.split_digest) == (
                header["digest"],
                header["split_digest"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"This manifest is damaged ({error!r}): load the data again.") from error
        if not digests_match:
            raise DataError(
                "This manifest was cut short or edited (its digest differs): load the data again."
            )
        return manifest

    def write(self, path: str | Path) -> None:
        """Write `to_json` to a file, completely or not at all.

        Parameters
        ----------
        path : path
            The file, which is replaced if it exists.
        """
        directories.write_atomically(Path(path), self.to_json().encode("ascii"))

    @staticmethod
    def load(path: str | Path) -> Manifest:
        """Read a file that `write` wrote; the images need not exist.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        Manifest

        Raises
        ------
        DataError
            The file is missing, truncated or edited.
        """
        return Manifest.from_json(manifest_file.read_text(Path(path)))

    @cached_property
    def _reader(self) -> SampleReader:
        return SampleReader(self.root, self.items, self.sizes)

    @cached_property
    def _unit_of_path(self) -> dict[str, int]:
        ids = folding.unit_ids(
            [sample.group for sample in self.samples],
            [sample.digest for sample in self.samples],
            self.positions(self.near_copies),
        )
        return {sample.path: int(unit) for sample, unit in zip(self.samples, ids, strict=True)}

    def positions(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
        """Return pairs of paths as pairs of positions.

        Parameters
        ----------
        pairs : iterable of (str, str)
            Pairs with a path that is not of this manifest are left out.

        Returns
        -------
        list of (int, int)
            Positions in `samples`.
        """
        position = {sample.path: index for index, sample in enumerate(self.samples)}
        return [
            (position[path_a], position[path_b])
            for path_a, path_b in pairs
            if path_a in position and path_b in position
        ]


def _digest_rows(rows: Iterable[tuple[str, ...]]) -> str:
    """Return the SHA-256 of a bag of rows, whatever their order."""
    digest = hashlib.sha256()
    for line in sorted(json.dumps(row, separators=(",", ":")) for row in rows):
        digest.update(line.encode("ascii") + b"\n")
    return digest.hexdigest()


def demand_manifest(value: object) -> None:
    """Raise `UsageError` where an argument is no `Manifest`."""
    demand_kind("data", value, Manifest, 'a Manifest, as load_data("photos/") returns it')
