"""Seconds of decoding beside those of computing: at once, where the slower decides, or in turn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Of what as many separate threads would decode: a machine with 16 cores decoded 2,170
# images a second with Pillow on 16 threads, at 6 ms an image on one, so 13 times as many. Two threads on two
# cores that decoded in turn with a first pass: 770 images a second, where one decoded 470 (2026-11-30).
SHARE_OF_THREADS = 0.81


class Bottleneck(StrEnum):
    """What a run's images wait for."""

    DECODING = "decoding"
    NETWORK = "network"


@dataclass(frozen=True)
class Pipeline:
    """How pictures are decoded, and what else goes on meanwhile.

    Parameters
    ----------
    workers
        Threads that decode; 0: the one that computes decodes in between.
    cores
        Cores in use: of the processor's threads where it computes, else those that are free to decode.
    on_gpu
        Whether something else than the processor computes.
    in_turn
        Whether threads decode only while nothing else computes.
    """

    workers: int = 0
    cores: int = 1
    on_gpu: bool = False
    in_turn: bool = False

    @property
    def threads(self) -> float:
        """How many times one thread's rate pictures are decoded at, if nothing else uses the cores."""
        count = min(self.workers, self.cores)
        return max(1.0, SHARE_OF_THREADS * count)

    def waiting_s(self, decode_s: float, computing_s: float) -> float:
        """Return how much longer computing takes because pictures are decoded for it.

        On a GPU decoding costs nothing that fits beside computing. On a processor both share the cores in
        use: what decoding takes of them is missing, whichever thread has it. In turn, computing waits for
        all of it.

        Parameters
        ----------
        decode_s : float
            Seconds of decoding, by one thread alone.
        computing_s : float
            Seconds of computing, with its own threads alone.
        """
        if self.workers == 0:
            return decode_s
        if self.in_turn:
            return decode_s / self.threads
        if self.on_gpu:
            return max(0.0, decode_s / self.threads - computing_s)
        return max(decode_s / self.threads - computing_s, decode_s / self.cores)

    def decides(self, decode_s: float, computing_s: float) -> Bottleneck:
        """Return which of both takes longer where both have the machine."""
        alone = self.on_gpu or self.in_turn or self.workers == 0
        share = self.threads if alone else float(min(self.workers, self.cores))
        return Bottleneck.DECODING if decode_s / max(1.0, share) > computing_s else Bottleneck.NETWORK


IN_BETWEEN = Pipeline()  # one image after another, between the steps
