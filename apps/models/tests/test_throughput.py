"""Tokens a second are those of the time in which answers ran."""

from apps.models.capacity import Throughput
from apps.tests.support.clock import Clock


def test_nothing_is_measured_before_an_answer_ran() -> None:
    assert Throughput(Clock()).rate() is None


def test_answers_beside_each_other_add_up_and_idle_time_does_not_count() -> None:
    clock = Clock()
    measured = Throughput(clock)
    measured.begin()
    clock.now = 1.0
    measured.begin()
    measured.count(10)
    clock.now = 2.0
    measured.end()
    measured.count(20)
    measured.end()
    clock.now = 500.0
    assert measured.rate() == 15.0
    measured.begin()
    clock.now = 501.0
    measured.end()
    assert measured.rate() == 10.0


def test_what_was_long_ago_gives_way_to_what_is_now() -> None:
    clock = Clock()
    measured = Throughput(clock)
    measured.begin()
    for second in range(1, 200):
        clock.now = float(second)
        measured.count(1 if second < 100 else 9)
    rate = measured.rate()
    assert rate is not None and 8.9 < rate < 9.1
