"""The retry budget: a fifth of the traffic, a few for a quiet service, and nobody else's."""

import pytest

from apps.gateway.routing.breaker import BUDGET_SECONDS, FEWEST, MOST_NAMES, RetryBudget, RetryBudgets
from apps.tests.support.clock import Clock


def spend(budget: RetryBudget, calls: int, wanted: int = 3) -> int:
    """The extra attempts that ``calls`` calls got which wanted so many each."""
    got = 0
    for _ in range(calls):
        budget.deposit()
        got += sum(budget.withdraw() for _ in range(wanted))
    return got


@pytest.mark.parametrize("calls", [50, 100, 1000, 10_000])
def test_extra_attempts_are_at_most_a_fifth_of_the_traffic(calls: int) -> None:
    assert spend(RetryBudget(clock=Clock()), calls) == calls // 5


def test_a_quiet_service_has_a_few() -> None:
    assert spend(RetryBudget(clock=Clock()), 3, wanted=10) == FEWEST


def test_they_come_back_after_a_minute() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    assert spend(budget, 5) == FEWEST
    clock.now += BUDGET_SECONDS - 0.1
    assert spend(budget, 5) == 0
    clock.now += 0.2
    assert spend(budget, 5) == FEWEST


def test_old_traffic_earns_nothing() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    for _ in range(1000):
        budget.deposit()
    clock.now += BUDGET_SECONDS + 1
    assert spend(budget, 1, wanted=500) == FEWEST


def test_each_name_has_its_own() -> None:
    budgets = RetryBudgets()
    assert spend(budgets.of("a"), 5) == FEWEST
    assert spend(budgets.of("a"), 1) == 0
    assert spend(budgets.of("b"), 5) == FEWEST


def test_names_are_forgotten_when_there_are_too_many() -> None:
    budgets = RetryBudgets()
    first = budgets.of("0")
    for i in range(MOST_NAMES + 1):
        budgets.of(str(i))
    assert budgets.of("0") is not first


def test_what_is_left_is_what_would_be_granted_and_asking_costs_nothing() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    assert [budget.left(), budget.left()] == [FEWEST, FEWEST]
    spend(budget, 100)
    assert budget.left() == 0
    clock.now += BUDGET_SECONDS + 1
    assert budget.left() == FEWEST


def test_the_budgets_tell_which_names_they_have() -> None:
    budgets = RetryBudgets()
    one = budgets.of("a")
    assert list(budgets.each()) == [("a", one)]
