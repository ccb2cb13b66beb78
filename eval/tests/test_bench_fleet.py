"""The fleet's bench, as far as it is text and arithmetic."""

import os

from eval.bench_fleet import cpu_seconds, prompt


def test_prompts_differ_from_their_first_word_on() -> None:
    beginnings = {prompt(number).split()[0] for number in range(50)}
    assert len(beginnings) == 50 and len(prompt(3).split()) > 20


def test_the_time_of_a_process_and_of_all_beneath_it_is_counted() -> None:
    mine = sum(os.times()[:2])
    assert mine <= cpu_seconds(os.getpid()) + 0.5
    own = cpu_seconds(os.getpid())
    assert cpu_seconds(os.getppid()) >= own
