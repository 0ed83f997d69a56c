"""Whether `torch.compile` is paid back within a run: the seconds that it saves beside those that it takes."""

from __future__ import annotations

from dataclasses import dataclass

# One H200 with 16 cores, ResNet-50 at 224 px, bfloat16, channels-last, torch 2.11 (docs/gpu.md): images a
# second of a training step and of a forward pass on invented pixels, not compiled and compiled, and the
# seconds of compiling.
STEP_IMAGES_PER_S = (4690.0, 6750.0)
PASS_IMAGES_PER_S = (15340.0, 22880.0)
STEP_COMPILE_S = 45.0
PASS_COMPILE_S = 18.0
STEP_GAIN = STEP_IMAGES_PER_S[1] / STEP_IMAGES_PER_S[0]
PASS_GAIN = PASS_IMAGES_PER_S[1] / PASS_IMAGES_PER_S[0]
# What is saved must be this many times what compiling takes, before it is done unasked. A choice: the figures
# above are of one network on one card.
WORTH_IT = 2.0


@dataclass(frozen=True)
class Tradeoff:
    """Seconds that compiling saves in a run and takes, and whether it is worth it.

    Attributes
    ----------
    saved_s : float
    compile_s : float
    """

    saved_s: float
    compile_s: float

    @property
    def pays(self) -> bool:
        """Whether it saves enough."""
        return self.saved_s >= WORTH_IT * self.compile_s

    def __str__(self) -> str:
        """Return the arithmetic in words."""
        verb = "compiled" if self.pays else "not compiled"
        return f"{verb}: saves {self.saved_s:.0f} s, takes {self.compile_s:.0f} s"


def of_steps(steps: int, step_s: float, pixels_s: float = 0.0, limit_s: float | None = None) -> Tradeoff:
    """Weigh compiling of the layers that learn.

    Parameters
    ----------
    steps : int
    step_s : float
        Seconds of a step, not compiled.
    pixels_s : float
        Seconds until the pixels of a batch are decoded, meanwhile: a step can't be shorter.
    limit_s : float or None
        Seconds that all steps may take.

    Returns
    -------
    Tradeoff
    """
    return _tradeoff(steps, step_s, pixels_s, STEP_GAIN, STEP_COMPILE_S, limit_s)


def of_passes(images: int, image_s: float, pixels_s: float = 0.0, limit_s: float | None = None) -> Tradeoff:
    """Weigh compiling of frozen layers.

    Parameters
    ----------
    images : int
        Views of images that pass.
    image_s : float
        Seconds of an image, not compiled.
    pixels_s : float
        Seconds until an image is decoded, meanwhile.
    limit_s : float or None

    Returns
    -------
    Tradeoff
    """
    return _tradeoff(images, image_s, pixels_s, PASS_GAIN, PASS_COMPILE_S, limit_s)


def _tradeoff(
    count: int, each_s: float, pixels_s: float, gain: float, compile_s: float, limit_s: float | None
) -> Tradeoff:
    plain_s, compiled_s = max(each_s, pixels_s), max(each_s / gain, pixels_s)
    if limit_s is not None and plain_s > 0:
        count = min(count, int(limit_s / plain_s))
    return Tradeoff(count * (plain_s - compiled_s), compile_s)
