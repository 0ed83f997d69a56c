"""Findings on images before anything is trained: one record for notes, `check` and its page.

Whoever reads, splits or shows images makes a `Finding` of what is odd. Its kind is a stable name that
programs may rely on; its sentences are for people, and may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# As many files as a person looks at for one kind of trouble, and a row of small pictures shows.
MOST_EXAMPLES = 12
NAMED = 3  # files in a sentence


@dataclass(frozen=True, slots=True)
class FindingKind:
    """The meaning of a kind of finding, and its default advice."""

    meaning: str
    what_to_do: str = ""
    trouble: bool = True  # False: a fact, or a choice that was made, which can be right as it is


KINDS: dict[str, FindingKind] = {
    "unreadable": FindingKind(
        "files that can't be read as images", "Repair or remove them; they are not used."
    ),
    "missing": FindingKind(
        "files that are named and do not exist", "Correct the paths, or remove the rows from the table."
    ),
    "unlabelled": FindingKind("images without a label", "Label or remove them; they are not used."),
    "left_out": FindingKind(
        "files and folders that belong to no class",
        "Move them into a class folder, or leave them: they are not used.",
    ),
    "repeated": FindingKind("rows that repeat an earlier row", "Remove the repetitions; each is used once."),
    "empty": FindingKind("classes without a usable image", "Add images, or remove the class."),
    "label_words": FindingKind("classes named with a word for a missing label"),
    "class_names": FindingKind(
        "classes whose names differ in case, spaces, hyphens or the form of characters only, or are the same "
        "number",
        "Give them one name if so.",
    ),
    "group_names": FindingKind(
        "groups whose names differ as those of such classes do", "Give them one name where they are one."
    ),
    "group_words": FindingKind(
        "groups named with a word for a missing value", "Leave the group of images that stand alone empty."
    ),
    "ungrouped": FindingKind(
        "images without a group where others have one",
        "Give those that belong together one; each counts as a group of its own.",
    ),
    "conflict": FindingKind("identical images with different labels", "Check them, and correct the labels."),
    "near_conflict": FindingKind("near copies with different labels", "Check them, and correct the labels."),
    "copies": FindingKind(
        "exact copies of another image", "Nothing has to be done; only distinct images add information."
    ),
    "near_copies": FindingKind(
        "images that look alike",
        "Check a few; where they show one object, give it a group (--group-by, or a column group).",
    ),
    "leak": FindingKind(
        "copies, or images of one group, in several of the given subsets",
        "Move images that belong together into one subset.",
    ),
    "tied": FindingKind("images skipped since new images link two subsets"),
    "groups_proposed": FindingKind("names that look like frames of one video, slices of one scan, …"),
    "few": FindingKind("classes of very few images", "Add images: a class needs ten to be evaluated."),
    "imbalance": FindingKind(
        "classes of very different size, from 5:1 on",
        "Look at balanced accuracy (--metric balanced_accuracy); --imbalance weights the classes.",
    ),
    "gaps": FindingKind("classes without an image in val or test", "Add images of them, or a larger share."),
    "flat": FindingKind("images of one flat colour", "Check them; remove those that show nothing."),
    "saturated": FindingKind(
        "images with values outside the rendered range", "Check them, or set --intensity-range."
    ),
    "mixed_depth": FindingKind("8-bit images among deeper ones", "Check whether depth goes with the class."),
    "cut_away": FindingKind("images whose edges a centre crop removes, from 1.5:1 on"),
    "pages": FindingKind("files of several pages or frames", "Save each page or frame to use as a file."),
    "split": FindingKind("how many images there are, and in which subsets", trouble=False),
    "no_val": FindingKind("why there is no val set", trouble=False),
    "no_test": FindingKind("why there is no test set, or where it comes from", trouble=False),
    "shares": FindingKind("subsets that miss the requested share", trouble=False),
    "groups": FindingKind("groups that stay in one subset", trouble=False),
    "assumed": FindingKind("what was assumed about folders or a table", trouble=False),
    "depth": FindingKind("images of more than 8 bits, and how they are rendered", trouble=False),
    "transparent": FindingKind("transparent images, and their background", trouble=False),
    "resize": FindingKind("how images were resized for a model that was adapted before", trouble=False),
    "learned": FindingKind("images that the model has seen before", trouble=False),
    "memory": FindingKind("a cache of digests that could not be used", trouble=False),
}  # fmt: skip
TROUBLE = tuple(name for name, kind in KINDS.items() if kind.trouble)


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation about the images.

    Attributes
    ----------
    kind : str
        One of `KINDS`; stable for programs.
    n : int
        Number of images; of files, rows, classes or groups where the message says so.
    message : str
        One or two sentences.
    what_to_do : str
        Advice more specific than that of the kind.
    examples : tuple of str
        Paths of example images.
    """

    kind: str  # one of `KINDS`
    n: int  # how many images it is about; files, rows, classes or groups where the message says so
    message: str  # a sentence or two
    what_to_do: str = ""  # where there is something better to say than of every finding of the kind
    examples: tuple[str, ...] = ()  # images to look at, by path; copies and groups stand one after another

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Unknown kind of finding {self.kind!r}.")

    def __str__(self) -> str:
        return self.note

    @property
    def trouble(self) -> bool:
        """Return whether something may be wrong."""
        return KINDS[self.kind].trouble

    @property
    def advice(self) -> str:
        """The advice; empty where there is none."""
        return self.what_to_do or KINDS[self.kind].what_to_do

    @property
    def note(self) -> str:
        """The message, with what to do where that is more than what the kind says anyway."""
        return f"{self.message} {self.what_to_do}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {
            "kind": self.kind,
            "n": self.n,
            "message": self.message,
            "what_to_do": self.advice,
            "examples": list(self.examples),
        }

    @staticmethod
    def from_row(row: Sequence[Any]) -> Finding:
        """Read a row of a manifest. Raises `ValueError` or `TypeError` for anything else."""
        kind, n, message, what_to_do, examples = row
        texts = (kind, message, what_to_do, *examples)
        if type(n) is not int or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"a finding says {row!r:.80}")
        return Finding(kind, n, message, what_to_do, tuple(examples))


def name_few(paths: Sequence[str]) -> str:
    """Name a few images in a sentence."""
    return ", ".join(paths[:NAMED]) + (" …" if len(paths) > NAMED else "")


def first_examples(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the first images, each once, as a finding's examples."""
    return tuple(dict.fromkeys(paths))[:MOST_EXAMPLES]
