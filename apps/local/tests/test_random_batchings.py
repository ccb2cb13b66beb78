"""No answer depends on its company, on drafts, on where a prompt's beginning comes from, or on the room that there is.

`python -m eval.random_batchings` runs as many as one likes.
"""

from pathlib import Path

import pytest

from apps.local.engine.batching.opening import Library
from apps.local.engine.kernel.build import AVX2, NEON, Variant, cpu_flags
from apps.local.engine.port import NoKernel
from apps.tests.support.budgets import budgeted
from apps.tests.support.kernels import kernels, library_of, variants_here
from apps.tests.support.random_batchings import Bench, TorchBench, draw

HERE = variants_here()
IN_ALL = budgeted(1000, 250)

pytestmark = [
    pytest.mark.local,
    pytest.mark.skipif(not any(each.needs <= cpu_flags() for each in (AVX2, NEON)), reason="this CPU has no kernels"),
]


def test_a_few_random_batchings_change_no_answer(tmp_path: Path) -> None:
    bench = Bench(kernels(), tmp_path)
    for number in range(6):
        bench.check(draw(0, number))
    # a test of caches and drafts that are not used would pass, too
    assert all(bench.totals[what] > 0 for what in ("tokens from memory", "tokens from disk", "accepted"))


@pytest.mark.parametrize("at", range(len(HERE)), ids=[variant.name for variant in HERE])
@pytest.mark.long
def test_many_random_batchings_in_all_change_no_answer(at: int, tmp_path: Path) -> None:
    bench = Bench(library(HERE[at]), tmp_path)
    for number in range(at, IN_ALL, len(HERE)):
        bench.check(draw(1, number))
    for what in ("left", "interrupted", "tokens from memory", "tokens from disk", "greedy answers"):
        assert bench.totals[what] > 0, what
    assert 0 < bench.totals["accepted"] < bench.totals["drafted"]


@pytest.mark.long
def test_on_torch_s_kernels_answers_are_near_those_of_the_same_call_alone(tmp_path: Path) -> None:
    bench = TorchBench(tmp_path)
    for number in range(60):
        bench.check(draw(2, number))
    for what in ("left", "tokens from memory", "tokens from disk"):
        assert bench.totals[what] > 0, what


def library(variant: Variant) -> Library:
    try:
        return library_of(variant)
    except NoKernel as error:
        pytest.skip(f"no kernels here: {error}")


def test_a_batching_is_the_same_each_time_it_is_drawn() -> None:
    assert draw(3, 4) == draw(3, 4)
    assert draw(3, 4) != draw(3, 5)
    assert {draw(0, number).prefix for number in range(20)} == {"none", "memory", "disk"}
