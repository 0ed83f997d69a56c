"""Write docs/textbook.md and its pictures: what the textbook says of transfer learning, and what we measured.

    python docs/generate_textbook.py

Every figure comes from src/frostline/advice/experience (benchmarks/experience.py, benchmarks/tasks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from frostline.advice.knowledge import HOME, Trial, read_experience, read_signals

NEAR = 0.4  # similarity from which images count as near, and images a class from which they count as many:
MANY = 20  # the textbook's two questions, thresholds halfway between what there is (benchmarks/advice.py)
BINS = (5, 10, 20, 40, 200)  # images a class, of the pictures
LOW_RATE, HIGH_RATE = "lp_ft(lr=0.0003)", "lp_ft(lr=0.002, layer_decay=1)"
DRAWS = 10_000
HERE = Path(__file__).parent
OUT, PICTURES = HERE / "textbook.md", HERE / "images"
QUADRANTS: dict[str, tuple[bool, bool]] = {  # near, many
    "near, few": (True, False),
    "near, many": (True, True),
    "far, few": (False, False),
    "far, many": (False, True),
}
# Okabe and Ito's colours, which people with colour blindness tell apart (jfly.uni-koeln.de/color).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7")


@dataclass(frozen=True)
class Measured:
    """A mean difference in points, its 95 % bootstrap interval, and what it was taken over."""

    mean: float
    low: float
    high: float
    pairs: int
    sets: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f}; {self.pairs} pairs, {self.sets} sets)"

    @property
    def sign(self) -> int:
        """1 above zero, −1 below, 0 where zero lies inside."""
        return int(self.low > 0) - int(self.high < 0)


def measured(groups: Sequence[Sequence[float]]) -> Measured | None:
    """Return the mean over groups with a two-stage bootstrap interval; `None` with fewer than two groups."""
    groups = [group for group in groups if len(group)]
    if len(groups) < 2:
        return None
    rng = np.random.default_rng(0)
    # The mean of as many draws as a group has, as many times as it could be drawn.
    means = [rng.choice(np.asarray(group), (DRAWS, len(groups), len(group))).mean(axis=2) for group in groups]
    drawn = np.empty(DRAWS)
    for place in range(DRAWS):
        picked = rng.integers(0, len(groups), len(groups))
        drawn[place] = np.mean([means[group][place, turn] for turn, group in enumerate(picked)])
    low, high = np.quantile(drawn, (0.025, 0.975))
    mean = float(np.mean([np.mean(group) for group in groups]))
    return Measured(mean, float(low), float(high), sum(map(len, groups)), len(groups))


def by_set(trials: Iterable[Trial], value_of: Callable[[Trial], float | None]) -> list[list[float]]:
    """Return what each trial says, in groups by image set."""
    groups: dict[str, list[float]] = {}
    for trial in trials:
        value = value_of(trial)
        if value is not None:
            groups.setdefault(trial.set, []).append(value)
    return list(groups.values())


def difference(one: str, other: str) -> Callable[[Trial], float | None]:
    """Return a function: by how many points a strategy was better than another in a trial."""

    def value_of(trial: Trial) -> float | None:
        if one not in trial.accuracy or other not in trial.accuracy:
            return None
        return 100 * (trial.accuracy[one] - trial.accuracy[other])

    return value_of


def earlier(trial: Trial) -> float | None:
    """By how many points the probe two stages before the last is better than that of the last."""
    stages = trial.facts.stages
    return 100 * (stages[-3] - stages[-1]) if len(stages) > 3 else None


def per_class(trial: Trial) -> float:
    """Images a class."""
    return trial.facts.images / trial.facts.classes


def quadrant(trials: Sequence[Trial], name: str) -> list[Trial]:
    """Return the trials of a quadrant."""
    near, many = QUADRANTS[name]
    return [t for t in trials if (t.facts.similarity >= NEAR, per_class(t) >= MANY) == (near, many)]


@dataclass(frozen=True)
class Claim:
    """A claim of the textbook, and how it is judged.

    Parameters
    ----------
    text
        What the textbook says.
    compared
        What is compared, with its value in a trial.
    deciding
        Quadrants that the claim speaks of.
    wants
        1 if the claim holds where the difference is above zero, −1 if below.
    shown
        Strategies in the picture.
    picture
        Name of the picture.
    """

    text: str
    compared: dict[str, Callable[[Trial], float | None]]
    deciding: tuple[str, ...]
    wants: int
    shown: tuple[str, ...]
    picture: str

    def table(self, trials: Sequence[Trial]) -> tuple[str, list[int]]:
        """Return the table by quadrant, and the signs of what decides."""
        names = list(QUADRANTS)
        head = " | ".join(f"**{name}**" if name in self.deciding else name for name in names)
        lines = [f"| points of test accuracy | {head} |", "|---|" + "---|" * len(names)]
        signs = []
        for what, value_of in self.compared.items():
            cells = []
            for name in names:
                figure = measured(by_set(quadrant(trials, name), value_of))
                cells.append("too few sets" if figure is None else f"{figure}{MARKS[figure.sign]}")
                if name in self.deciding and figure is not None:
                    signs.append(figure.sign)
            lines.append(f"| {what} | {' | '.join(cells)} |")
        return "\n".join(lines), signs

    def verdict(self, signs: Sequence[int]) -> str:
        """Return what the deciding comparisons say."""
        holding, against = signs.count(self.wants), signs.count(-self.wants)
        if not signs:
            return "not tried on enough sets"
        counts = f"{holding} of {len(signs)} comparisons are for it, {against} against it"
        if against:
            return f"**does not hold** ({counts})"
        return f"**holds** ({counts})" if holding == len(signs) else f"**not shown** ({counts})"

    def section(self, trials: Sequence[Trial], remark: str = "") -> str:
        """Return the claim with its verdict, table and picture."""
        table, signs = self.table(trials)
        where = "; ".join(name.replace(",", " and") for name in self.deciding)
        parts = [
            f"## “{self.text}”",
            f"{where.capitalize()}: {self.verdict(signs)}.",
            table,
            *([remark] if remark else []),
            f"![{self.text}: accuracy, near and far](images/textbook-{self.picture}.svg)",
        ]
        return "\n\n".join(parts)


MARKS = {1: " ▲", 0: "", -1: " ▼"}
CLAIMS = (
    Claim(
        "A head is enough when images are similar and few",
        {
            f"`{s}` − `linear_probe`": difference(s, "linear_probe")
            for s in ("top_k(1)", "top_k(3)", "lp_ft", "full")
        },
        ("near, few",),
        -1,
        ("linear_probe", "top_k(1)", "top_k(3)", "lp_ft", "full"),
        "head",
    ),
    Claim(
        "Unfreeze gradually when images are different",
        {
            f"`gradual_unfreeze` − `{s}`": difference("gradual_unfreeze", s)
            for s in ("full", "top_k(3)", "lp_ft")
        },
        ("far, few", "far, many"),
        1,
        ("gradual_unfreeze", "full", "top_k(3)", "lp_ft"),
        "gradual",
    ),
    Claim(
        "Low learning rates protect what was learned",
        {
            f"`{LOW_RATE}` − `lp_ft`": difference(LOW_RATE, "lp_ft"),
            f"`{LOW_RATE}` − `{HIGH_RATE}`": difference(LOW_RATE, HIGH_RATE),
        },
        ("near, few", "near, many"),
        1,
        (LOW_RATE, "lp_ft"),
        "rates",
    ),
    Claim(
        "Train the whole network when images are many and different",
        {
            f"`full` − `{s}`": difference("full", s)
            for s in ("linear_probe", "top_k(3)", "gradual_unfreeze", "lp_ft")
        },
        ("far, many",),
        1,
        ("full", "linear_probe", "top_k(3)", "gradual_unfreeze", "lp_ft"),
        "full",
    ),
    Claim(
        "Early layers are general, late ones special",
        {"a probe two stages before the last − one of the last": earlier},
        ("far, few", "far, many"),
        1,
        (),
        "layers",
    ),
)


def introduction(trials: Sequence[Trial]) -> str:
    """Return the head of the page."""
    tasks = sum("top_k(1, epochs=1)" in t.accuracy for t in trials)
    models = sorted({t.model.removeprefix("tf_efficientnet_") for t in trials})
    return f"""# What the textbook says, and what we measured

*Generated by `python docs/generate_textbook.py` from what benchmarks/experience.py and benchmarks/tasks.py
tried; do not edit.*

{len(trials)} trials of {len({t.set for t in trials})} image sets with {", ".join(models)}:
{len(trials) - tasks} draws of whole sets at 96 and 160 px, and {tasks} small tasks (some of the classes,
32 to 96 px, half of them grey, blurred, with merged or wrong labels); groups kept apart. *Near* is a measured
similarity of {NEAR} and up, *few* is under {MANY} images a class. Differences are means over sets, with 95 %
bootstrap intervals (sets drawn first, then trials of them): ▲ wholly above zero, ▼ wholly below. The part
that a claim speaks of is in bold. A claim holds where every comparison there is for it, and does not where
one is against it. These are small networks and small images. In a picture all lines of a point are means
over the same trials, every set weighing the same; points beside each other are of other trials, and so of
easier or harder tasks."""


def draw(figure: Figure, path: Path) -> None:
    """Write a picture that is the same bytes each time."""
    with mpl.rc_context({"svg.hashsalt": "frostline", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, transparent=False)


def panels() -> tuple[Figure, dict[str, mpl.axes.Axes]]:
    """Return an empty picture with two parts, near and far."""
    figure = Figure(figsize=(7.5, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title in ((left, f"near (similarity {NEAR} and up)"), (right, "far")):
        axes.set_title(title, fontsize=9)
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("test accuracy, %", fontsize=8)
    return figure, {"near": left, "far": right}


def accuracy_picture(claim: Claim, trials: Sequence[Trial]) -> Figure:
    """Draw the accuracy of strategies against images a class."""
    figure, axes_of = panels()
    both = [t for t in trials if all(name in t.accuracy for name in claim.shown)]
    for side, axes in axes_of.items():
        some = [t for t in both if (t.facts.similarity >= NEAR) == (side == "near")]
        bins = [
            [t for t in some if low <= per_class(t) < high]
            for low, high in zip(BINS[:-1], (*BINS[1:-1], float("inf")), strict=True)
        ]
        bins = [one for one in bins if len({t.set for t in one}) > 1]
        at = [float(np.exp(np.mean([np.log(per_class(t)) for t in one]))) for one in bins]
        for name, colour, marker in zip(claim.shown, COLOURS, "osD^v", strict=False):
            heights = [
                np.mean([np.mean(g) for g in by_set(one, lambda t, n=name: 100 * t.accuracy[n])])  # type: ignore[misc]
                for one in bins
            ]
            axes.plot(at, heights, color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
        axes.set_xscale("log")
        axes.set_xticks([5, 10, 20, 40, 100], ["5", "10", "20", "40", "100"])
        axes.minorticks_off()
        counts = ", ".join(str(len(one)) for one in bins)
        axes.set_xlabel(f"images a class ({counts} trials)", fontsize=8)
    figure.legend(
        *axes_of["near"].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        fontsize=7,
        frameon=False,
    )
    return figure


def layers_picture(trials: Sequence[Trial]) -> Figure:
    """Draw the accuracy of a probe after each stage of lite networks, few and many images."""
    figure, axes_of = panels()
    lite = [t for t in trials if "lite" in t.model and len(t.facts.stages) == 8]
    for side, axes in axes_of.items():
        for many, colour, marker in ((False, COLOURS[0], "o"), (True, COLOURS[1], "s")):
            some = [
                t
                for t in lite
                if (t.facts.similarity >= NEAR) == (side == "near") and (per_class(t) >= MANY) == many
            ]
            if len({t.set for t in some}) < 2:
                continue
            heights = [
                np.mean([np.mean(g) for g in by_set(some, lambda t, s=stage: 100 * t.facts.stages[s])])  # type: ignore[misc]
                for stage in range(8)
            ]
            label = f"{MANY} images a class and more" if many else f"under {MANY} images a class"
            axes.plot(
                range(8), heights, color=colour, marker=marker, markersize=4, linewidth=1.4, label=label
            )
        axes.set_xticks(range(8), ["stem", *(f"b{n}" for n in range(7))])
        axes.set_xlabel("a frozen probe after this stage", fontsize=8)
    axes_of["near"].set_ylabel("out-of-fold accuracy, %", fontsize=8)
    figure.legend(
        *axes_of["far"].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=7,
        frameon=False,
    )
    return figure


def beyond_random(folder: Path) -> str:
    """Say how far probes on pretrained weights are ahead of ones on random weights, by stage."""
    values_of: dict[str, dict[str, list[float]]] = {}
    for row in read_signals(folder):
        if row["model"] == "tf_efficientnet_lite0" and row["size"] == 96:
            for probe in row["probe_by_stage"]:
                if probe["random"] is not None:
                    gain = 100 * (probe["accuracy"] - probe["random"])
                    values_of.setdefault(probe["stage"], {}).setdefault(row["set"], []).append(gain)
    figures = {
        stage: measured(list(groups.values()))
        for stage, groups in values_of.items()
        if stage in ("stem", "blocks.1", "blocks.3", "blocks.6")
    }
    listing = "; ".join(f"{stage} {figure}" for stage, figure in figures.items())
    return f"Points of a probe above one on random weights (lite0, 96 px): {listing}."


def text(folder: Path = HOME) -> str:
    """Return the whole page."""
    trials = read_experience(folder)
    remarks = {"layers": beyond_random(folder)}
    sections = [claim.section(trials, remarks.get(claim.picture, "")) for claim in CLAIMS]
    return "\n\n".join([introduction(trials), *sections]) + "\n"


def main() -> None:
    """Write the page and its pictures."""
    trials = read_experience()
    for claim in CLAIMS:
        figure = accuracy_picture(claim, trials) if claim.shown else layers_picture(trials)
        draw(figure, PICTURES / f"textbook-{claim.picture}.svg")
    OUT.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
