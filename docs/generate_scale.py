"""Write docs/scale.md: what many images and many machines would take, and where each part stops scaling.

    python docs/generate_scale.py

Constants are measured (benchmarks/scale.json, by benchmarks/scale.py) or assumed (`ASSUMED`, each with where
it comes from); every other figure follows from them here.
"""

# ruff: noqa: E501 - sentences of a page
from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from frostline.selection import successive_halving  # noqa: E402
from frostline.strategies import NAMED  # noqa: E402
from scale import Fleet, Passed, frozen_pass, trials  # noqa: E402

OUT = HERE / "scale.md"
MEASURED = json.loads((HERE.parent / "benchmarks" / "scale.json").read_text())
HOUR_S, DAY_S = 3600.0, 86400.0
MILLION, BILLION = 1e6, 1e9
GPUS = (8, 64, 1000)

# name: (value, unit, where it comes from). None of these was measured: no GPU and no cluster was at hand.
ASSUMED: dict[str, tuple[float, str, str]] = {
    "gpu_images": (2500.0, "images a second", "a ResNet-50's forward pass at 224 px in half precision on a data-centre GPU, the order of published benchmarks; yours: `python benchmarks/gpu.py`"),
    "cores": (16.0, "CPU cores a GPU", "common in rented machines of 8 GPUs and 128 to 192 cores"),
    "gpu_hour": (2.0, "$ a GPU-hour", "the order of rented list prices in 2025; a tenth to twice this is found"),
    "stored": (0.023, "$ a GB-month", "list price of a large provider's standard object storage"),
    "request": (0.0000004, "$ a GET", "the same provider's list price: 0.40 $ a million"),
    "away": (0.09, "$ a GB that leaves the region", "the same provider's list price; nothing within a region"),
    "photo": (100_000.0, "bytes an image", "a JPEG of 500 × 375 px is 50 to 150 kB (docs/LOG.md, benchmarks/scale.py)"),
    "features": (4096.0, "bytes of features an image", "ResNet-50's pooled features, 2,048 in 16 bits; an early cut's are up to 400 times as large"),
    "restart": (300.0, "seconds until a lost node works again", "a choice"),
    "slow": (0.02, "of the workers take twice as long", "a choice"),
    "epochs": (3.0, "times a pass's seconds for one trial of `top_k(1)` or less", "a choice, for the size of a trial beside a pass"),
}  # fmt: skip


def value(name: str) -> float:
    """Return an assumption's value."""
    return ASSUMED[name][0]


def image_s() -> float:
    """Seconds an image on one GPU with its cores: whichever of the two is slower."""
    return max(
        1.0 / value("gpu_images"), (MEASURED["decode_s"] + MEASURED["list_and_hash_s"]) / value("cores")
    )


def fleet(gpus: int, *, indexed: bool = True) -> Fleet:
    """A fleet with everything that goes wrong; without `indexed`, the index costs nothing."""
    return Fleet(
        workers=gpus,
        image_s=image_s(),
        index_s=(MEASURED["index_claim_s"] + MEASURED["index_add_s"]) if indexed else 0.0,
        slow_share=value("slow"),
        restart_s=value("restart"),
    )


def two(number: float) -> str:
    """Write a number with two digits that count, and without an exponent."""
    digits = 1 - math.floor(math.log10(number)) if number else 0
    return f"{round(number, digits):,.{max(0, digits)}f}"


def long(seconds: float) -> str:
    """Write a time for people, two digits."""
    for unit, size in (("years", 365 * DAY_S), ("days", DAY_S), ("hours", HOUR_S), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{two(seconds / size)} {unit}"
    return f"{two(seconds)} s" if seconds >= 1 else f"{two(1000 * seconds)} ms"


def large(size: float) -> str:
    """Write bytes for people, two digits."""
    for unit, least in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{two(size / least)} {unit}"
    return f"{two(size)} bytes"


def dollars(amount: float) -> str:
    """Write money for people, two digits."""
    digits = max(0, len(str(int(amount))) - 2)
    return f"{round(amount, -digits):,.0f} $" if amount >= 10 else f"{amount:.1f} $"


def percent(share: float) -> str:
    """Write a share."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def passes() -> str:
    """The frozen pass at every size."""
    rows = []
    for images in (MILLION, BILLION):
        for gpus in GPUS:
            real, free = (frozen_pass(fleet(gpus, indexed=i), images) for i in (True, False))
            cost = gpus * real.seconds / HOUR_S * value("gpu_hour")
            network = images * value("photo") / free.seconds
            rows.append([
                f"{images:,.0f}", f"{gpus:,}", long(real.seconds), percent(real.waiting_share),
                percent(real.idle_share), dollars(cost), long(free.seconds),
                dollars(gpus * free.seconds / HOUR_S * value("gpu_hour")), f"{large(network)}/s",
            ])  # fmt: skip
    head = ["images", "GPUs", "one index: time", "waiting for it", "idle", "GPU money",
            "an index that costs nothing: time", "GPU money", "then read"]  # fmt: skip
    return table(head, rows)


def losses() -> str:
    """What lost nodes cost."""
    rows = []
    for gpus in GPUS:
        sound = frozen_pass(fleet(gpus, indexed=False), BILLION)
        for lost in sorted({1, max(1, gpus // 8 // 10)}):
            passed = frozen_pass(replace(fleet(gpus, indexed=False), lost=lost), BILLION)
            rows.append(_loss(gpus, lost, sound, passed))
    head = ["GPUs", "nodes lost", "work done twice", "idle", "without a loss", "with it", "GPU money of it"]
    return table(head, rows)


def _loss(gpus: int, lost: int, sound: Passed, found: Passed) -> list[str]:
    hours = gpus * (found.seconds - sound.seconds) / HOUR_S
    return [f"{gpus:,}", f"{lost} of {-(-gpus // 8)}", percent(found.redone_share), percent(found.idle_share),
            minutes(sound.seconds), minutes(found.seconds), dollars(max(0.0, hours) * value("gpu_hour"))]  # fmt: skip


def minutes(seconds: float) -> str:
    """Write a time so that small differences show."""
    return f"{seconds / 60:,.1f} min"


def races() -> str:
    """A comparison of every strategy, a trial a GPU, on a million images."""
    count = len(NAMED)
    whole = MILLION * image_s() * value("epochs")
    rows = []
    for folds, name in ((1, "one split"), (5, "five folds")):
        plan = successive_halving.plan(count, folds=folds, repeats=3)
        rungs = [[whole * rung.share] * (rung.enter * folds * len(rung.repeats)) for rung in plan.rungs]
        for workers in (1, *GPUS):
            outcomes = trials(workers, rungs, MEASURED["ledger_s"], MEASURED["ledger_per_trial_s"])
            rows.append([
                name, f"{workers:,}", f"{outcomes.runs}", long(outcomes.seconds), percent(outcomes.idle_share),
                dollars(workers * outcomes.seconds / HOUR_S * value("gpu_hour")), percent(outcomes.ledger_share),
            ])  # fmt: skip
    head = ["each strategy on", "GPUs", "trials", "time", "idle", "GPU money", "waiting for the trial queue"]
    return table(head, rows)


def storage() -> str:
    """Bytes and money of what is kept."""
    rows = []
    kinds = {
        "images": value("photo"),
        "cached features of one view": value("features"),
        "the cache's index": MEASURED["index_bytes"],
        "the manifest on disk": MEASURED["manifest_file_bytes"],
        "the manifest in memory, in every process": MEASURED["manifest_bytes"],
    }
    for kind, size in kinds.items():
        month = [n * size / 1e9 * value("stored") for n in (MILLION, BILLION)]
        memory = "memory" in kind
        rows.append([kind, large(MILLION * size), "" if memory else dollars(month[0]),
                     large(BILLION * size), "" if memory else dollars(month[1])])  # fmt: skip
    read = [dollars(n * value("request")) for n in (MILLION, BILLION)]
    out = [dollars(n * value("photo") / 1e9 * value("away")) for n in (MILLION, BILLION)]
    rows.append(["reading every image once (GETs)", "", read[0], "", read[1]])
    rows.append(["the same from another region", "", out[0], "", out[1]])
    return table(["", "1 million", "a month, or once", "1 billion", "a month, or once"], rows)


def limits() -> str:
    """Where each part stops scaling: what one process would take, as it is built today."""
    m = MEASURED
    index = m["index_claim_s"] + m["index_add_s"]
    power = max(1.0, m["near_exponent"])
    near = [m["near_s"] * 20_000 * (n / 20_000) ** power for n in (MILLION, BILLION)]
    claims = 1.0 / (index * gpu_rate())
    parts = [
        ("listing and hashing", "one process, one file after another", m["list_and_hash_s"], "divide the listing among processes; memory by path, size and times saves the second time"),
        ("manifest: digest", "sorts every line, in memory", m["manifest_digest_s"], f"memory: {large(BILLION * m['manifest_bytes'])} at a billion, in every process; columns on disk"),
        ("split by hash", "Python, an image at a time; a share of each class needs all of its hashes in order", m["split_s"], "the hash of one image needs no other; the share of its class does"),
        ("cache index: claims and writing", f"one SQLite writer at a time: {two(1 / index)} images a second", index, f"busy all the time from {two(claims)} GPUs on; an index for each prefix of the keys"),
        ("cache index: lookup", "readers side by side", m["index_locate_s"], "grows with the depth of a tree; the file lies on one disk"),
        ("linear probe", f"one process; needs the features of every image in memory, {large(BILLION * 4 * 1280)} at a billion", m["probe_s"], "ridge adds up over images, so it could be summed by workers; the logistic one not"),
    ]  # fmt: skip
    rows = [[name, how, long(each * MILLION), long(each * BILLION), then] for name, how, each, then in parts]
    rows.insert(3, ["near copies", f"time grows with images^{power:.1f} or faster: measured on 5,000 and 20,000 marks drawn at random, which form no families", long(near[0]), long(near[1]), f"marks take {large(BILLION * m['near_bytes'])} of memory at a billion; `near_copies=False`, and groups of your own"])  # fmt: skip
    many = [(m["ledger_s"] + 0.5 * n * m["ledger_per_trial_s"]) * n for n in (100, 10_000)]
    ledger = f"{long(many[0])} for 100 trials, {long(many[1])} for 10,000: every claim reads all trials"
    rows.append(
        ["trial queue", ledger, "the same", "the same", "trials, not images, count; a few hundred are plenty"]
    )
    rows.append(["report", "reads the table of answers, a line an image, in one process", "not measured", "not measured", "of a test set of 20,000 images an accuracy is known to 0.3 points: sample it"])  # fmt: skip
    return table(["part", "today", "1 million", "1 billion", "what stops it, what would help"], rows)


def gpu_rate() -> float:
    """Images a second of one GPU with its cores."""
    return 1.0 / image_s()


def page() -> str:
    """Return docs/scale.md."""
    m, decode = MEASURED, MEASURED["decode_s"] + MEASURED["list_and_hash_s"]
    feeding = decode * value("gpu_images")
    bound = (
        "its cores decide, as they decode"
        if decode / value("cores") > 1 / value("gpu_images")
        else "the GPU decides"
    )
    constants = [[f"`{name}`", f"{found:.3g}"] for name, found in m.items() if name != "versions"]
    assumed = [[f"`{k}`", f"{v:,.10g} {unit}", source] for k, (v, unit, source) in ASSUMED.items()]
    return f"""# A million images, a billion, and a thousand GPUs

*Generated by `python docs/generate_scale.py`; do not edit. **None of it was run at this size.** It is arithmetic on
constants measured on one shared 2-core machine without a GPU, on assumptions that are named below, and a simulation.*

What was run: a Ray cluster of two workers and PostgreSQL with two processes, on one machine, on tens of images
(tests/test_ray.py, tests/test_postgresql.py). What was never run: several machines, a network file system, a GPU
in a cluster, more than 13,653 images.

In short: a **million** images should be within reach of what is built, on one machine of 8 GPUs; a **billion** are not:
the manifest would take {large(BILLION * m["manifest_bytes"])} of memory in every process, the marks of near copies {large(BILLION * m["near_bytes"])}, and the index lets through
{two(1 / (m["index_claim_s"] + m["index_add_s"]))} images a second, {long(BILLION * (m["index_claim_s"] + m["index_add_s"]))} for all of them, however many GPUs wait.

## The frozen pass

Simulated (benchmarks/scale.py): workers take blocks of images, pass one after another through the cache's index,
{percent(value("slow"))} are slow. One GPU with its cores makes {two(gpu_rate())} images a second: {bound}. To feed {value("gpu_images"):,.0f} images a second, {feeding:.0f} cores would have to read,
hash, decode and resize ({1000 * decode:.1f} ms an image, measured on one).

{passes()}

The hot spot is the index: SQLite lets one writer in at a time, and an image costs {1e6 * (m["index_claim_s"] + m["index_add_s"]):.0f} µs there. From {two(1 / ((m["index_claim_s"] + m["index_add_s"]) * gpu_rate()))} GPUs on it is busy all
the time, and more workers only wait. An index for each prefix of the keys would divide it; that is not built.

## A lost node

A node has 8 GPUs. A dead worker's images are taken over after {fleet(8).lease_s:.0f} s, its trial after 120 s (at once on the same machine); the table is for a
billion images with an index that costs nothing, so that nothing hides the losses.

{losses()}

What is lost is a block, never a pass: shards that are on disk stay. In the simulation a block is a fortieth of a worker's
share; the cache's own claims are of 256 images, so the work that is done twice is smaller still.

## A comparison

Every strategy on a million images, a trial a GPU, {value("epochs"):.0f} passes' time a trial; rungs wait for their last run.

{races()}

More GPUs than trials in a rung are idle: a comparison is not a reason to rent a thousand.

## Storage and network

{storage()}

Features of an early cut can be larger than the image they came from; whether they are read or computed is decided from
measured rates (`--explain`), and over a network reading will lose more often.

## Where each part stops

One process's time, by constants measured at 4,000 to 50,000 images and carried on in proportion (near copies: with the
measured power). A billion is an extrapolation by a factor of 20,000 and more.

{limits()}

## Constants, measured here

Seconds or bytes for one image or trial, {m["versions"]}; the least of several rounds, of the processor's time (of the wall's for index and trial queue, which wait for the disk), on a busy machine. `python
benchmarks/scale.py --measure benchmarks/scale.json` measures yours.

{table(["constant", "value"], constants)}

## Assumptions, not measured

{table(["assumption", "value", "where it comes from"], assumed)}
"""


if __name__ == "__main__":
    OUT.write_text(page(), encoding="utf-8")
    print(f"{OUT} written")
