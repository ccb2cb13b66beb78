"""The seam between the scheduler and the arithmetic: one step of the model for some rows, and how many rows it has.

So many tokens of prompts go into a step as take so long, at the speed that was measured.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from apps.core.messages import JsonObject


class Step(Protocol):
    """Computes rows. A row is one token of one sequence: the next one of an answer, or one of a prompt.

    ``cache`` is what ``new_cache`` made: keys and values of one sequence, for positions 0..context_length-1. It takes
    blocks of positions from a pool that all share; ``run``, ``copy_prefix`` and ``write_block`` reserve what is not
    reserved yet, and raise MemoryError where there is nothing left.
    ``rows_independent``: a row's result has the same bits whatever other rows are computed beside it.
    """

    max_rows: int
    rows_independent: bool

    def new_cache(self) -> Any: ...

    @property
    def free_blocks(self) -> int: ...

    def blocks_for(self, tokens: int) -> int:
        """How many a sequence of ``tokens`` tokens takes."""

    def blocks_of(self, cache: Any) -> int: ...

    def reserve(self, cache: Any, tokens: int) -> bool:
        """Room for the first ``tokens`` positions; False, and nothing is taken, where there are too few blocks."""

    def release(self, cache: Any, tokens: int) -> None:
        """Gives back what is not needed for the first ``tokens`` positions."""

    def copy_prefix(self, source: Any, target: Any, tokens: int) -> None:
        """The first ``tokens`` positions of another sequence's cache."""

    def read_block(self, cache: Any, start: int, stop: int) -> bytes:
        """A copy of the keys and values of positions ``start`` to ``stop``, multiples of 16."""

    def write_block(self, cache: Any, start: int, stop: int, values: Any) -> None:
        """What ``read_block`` read, of this cache or of another one."""

    def run(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any], wanted: Sequence[int]) -> Any:
        """Logits, float32 [len(wanted), vocabulary], of the rows whose indices are ``wanted``.

        The rows of one sequence stand side by side in ascending positions; everything before a row's position is in
        its cache already, or among the rows before it.
        """

    def describe(self) -> JsonObject: ...

    def close(self) -> None: ...


class WholeSequences:
    """The part of Step about blocks where each cache has all its memory from the beginning."""

    free_blocks = 1 << 30

    def blocks_for(self, tokens: int) -> int:
        return 0

    def blocks_of(self, cache: Any) -> int:
        return 0

    def reserve(self, cache: Any, tokens: int) -> bool:
        return True

    def release(self, cache: Any, tokens: int) -> None:
        """Nothing is shared."""


SMALLEST, LARGEST = 12, 252
# while answers are running, a step is also the gap between two of their tokens
SECONDS_BESIDE_ANSWERS, SECONDS_ALONE = 0.1, 0.25


class Chunking:
    """Learns from each wide step. Rows are counted in twelves, the height of one of the kernels' tiles, or of three."""

    def __init__(self) -> None:
        self._seconds_per_row = SECONDS_BESIDE_ANSWERS / 48

    @property
    def seconds_per_row(self) -> float:
        return self._seconds_per_row

    def rows(self, answers_running: bool) -> int:
        seconds = SECONDS_BESIDE_ANSWERS if answers_running else SECONDS_ALONE
        return max(SMALLEST, min(LARGEST, int(seconds / self._seconds_per_row) // SMALLEST * SMALLEST))

    def learn(self, rows: int, seconds: float) -> None:
        if rows >= SMALLEST:
            self._seconds_per_row += 0.3 * (seconds / rows - self._seconds_per_row)
