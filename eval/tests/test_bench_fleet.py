"""The fleet's bench, as far as it is text and arithmetic."""

import os
import subprocess
import sys

from eval.bench_fleet import prompt
from eval.process_cpu import cpu_seconds, pin, started_with, thread_seconds


def test_prompts_differ_from_their_first_word_on() -> None:
    beginnings = {prompt(number).split()[0] for number in range(50)}
    assert len(beginnings) == 50 and len(prompt(3).split()) > 20


def test_the_time_of_a_process_and_of_all_beneath_it_is_counted() -> None:
    mine = sum(os.times()[:2])
    assert mine <= cpu_seconds(os.getpid()) + 0.5
    own = cpu_seconds(os.getpid())
    assert cpu_seconds(os.getppid()) >= own
    threads = thread_seconds(os.getpid())
    assert threads.main > 0 and (threads - threads).main == 0


def test_a_process_is_found_by_what_it_was_started_with() -> None:
    name = f"LOOKED_FOR_{os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", "input()"], env={name: "1"}, stdin=subprocess.PIPE) as process:
        assert started_with(name, 1) == process.pid
        core = min(os.sched_getaffinity(0))
        pin(process.pid, {core})
        assert os.sched_getaffinity(process.pid) == {core}
        process.communicate(b"\n")
