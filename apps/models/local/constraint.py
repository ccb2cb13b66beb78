"""The seam between an engine and a grammar: which tokens may come next. Knows no grammar library and no engine."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Constraint(Protocol):
    """The state of one answer in its grammar. Belongs to one answer; an engine uses it from one thread."""

    @property
    def finished(self) -> bool:
        """The grammar is complete and nothing can follow."""

    def allowed(self, remaining: int) -> "NDArray[Any]":
        """A bool for each token, at least one of them true. End tokens are allowed where the text may end.

        ``remaining`` tokens may be generated from here on: near its end only what leads to a complete text may be
        allowed. Raises InvalidValue where the grammar grew beyond its limits.
        """

    def advance(self, token: int) -> None:
        """``token`` was generated. Raises InternalError for one that was not allowed."""


def masked(logits: "NDArray[Any]", allowed: "NDArray[Any]") -> "NDArray[Any]":
    """A copy of one row of logits with minus infinity for every token that is not allowed.

    Rows are often padded beyond the tokenizer's vocabulary: what lies there is not allowed.
    """
    import numpy as np

    row = np.full_like(logits, float("-inf"))
    length = min(len(allowed), len(logits))
    np.copyto(row[:length], logits[:length], where=allowed[:length])
    return row
