"""The soak's arithmetic, and a short one of a real process."""

import asyncio
import sys
from pathlib import Path

import pytest

from apps.tests.support.processes import running
from eval.mock_upstream import mock_upstream
from eval.soak import Sample, growth, slope, soak


def sample(seconds: float, megabytes: float, descriptors: int = 20, threads: int = 5) -> Sample:
    return Sample(seconds, megabytes, descriptors, threads, 0)


def test_the_slope_is_of_ten_minutes() -> None:
    assert slope([sample(10.0 * n, 100 + 0.5 * n) for n in range(20)]) == pytest.approx(30)
    assert slope([sample(10.0 * n, 100) for n in range(20)]) == pytest.approx(0)


def test_growth_compares_the_last_quarter_with_the_middle() -> None:
    assert growth([sample(n, 1) for n in range(16)]) == (0, 0)
    assert growth([sample(n, 1, descriptors=20 + n, threads=5 + n // 8) for n in range(16)]) == (4, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process is measured in /proc")
@pytest.mark.long
def test_a_short_soak_counts_calls_faults_and_those_who_left(tmp_path: Path) -> None:
    with (
        mock_upstream(tokens=5) as upstream,
        running(tmp_path, OPENAI_BASE_URL=upstream.base_url, RETRY_BACKOFF="0.01") as service,
    ):
        port = int(service.url.rpartition(":")[2])
        samples, outcomes = asyncio.run(soak(service.process.pid, port, 6, 4, 0.3, False))
    assert len(samples) >= 2
    assert all(one.megabytes > 20 and one.descriptors > 5 and one.threads >= 1 for one in samples)
    assert outcomes["200"] > 0
    assert not outcomes["broken"]
    assert samples[-1].calls > 0
