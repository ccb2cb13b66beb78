"""The seam between the scheduler and the arithmetic: one step of the model for some rows."""

from collections.abc import Sequence
from typing import Any, Protocol

from apps.core.messages import JsonObject


class Step(Protocol):
    """Computes rows. A row is one token of one sequence: the next one of an answer, or one of a prompt.

    ``cache`` is what ``new_cache`` made: keys and values of one sequence, for positions 0..context_length-1.
    ``rows_independent``: a row's result has the same bits whatever other rows are computed beside it.
    """

    max_rows: int
    rows_independent: bool

    def new_cache(self) -> Any: ...

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
