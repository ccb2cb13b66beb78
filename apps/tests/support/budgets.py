"""How much a long test does: all of it, or what leaves `.ci/run` within its time."""

import os

VARIABLE = "TEST_BUDGETS"


def budgeted(full: int, short: int) -> int:
    """``full``, or ``short`` with TEST_BUDGETS=short."""
    return short if os.environ.get(VARIABLE) == "short" else full
