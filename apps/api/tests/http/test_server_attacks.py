"""Attacks on a real process of the service: each is bounded in memory and in time, and others are served meanwhile."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx2
import pytest

from apps.tests.support.processes import running
from apps.tests.support.waiting import until
from eval.attacks import ATTACKS, GET, HANG, Attack, attacked_service, closed_for, measured, open_to
from eval.mock_upstream import MockUpstream, mock_upstream

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process from /proc"),
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with mock_upstream(tokens=20) as mock:
        yield mock


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_bounded_closed_counted_and_logged_and_others_are_served(attack: Attack, tmp_path: Path) -> None:
    with attacked_service(tmp_path) as service:
        descriptors = Path(f"/proc/{service.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        found = measured(attack, service)
        assert found.bounded(), found
        # how long they waited is for a quiet machine to say: python -m eval.attacks
        assert found.waits
        assert until(lambda: len(list(descriptors.iterdir())) < before + 20)


def test_health_is_answered_when_the_descriptors_are_used_up(tmp_path: Path, upstream: MockUpstream) -> None:
    with running(tmp_path, DESCRIPTORS="160", OPENAI_BASE_URL=upstream.base_url, IDLE_TIMEOUT="600") as service:
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(open_to(service)).sendall(GET)
            for _ in range(20):
                assert httpx2.get(f"{service.url}/healthz", timeout=HANG).status_code == 200
            refused = httpx2.post(f"{service.url}/generate", json={"prompt": "hi"}, timeout=HANG)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "OVERLOADED")
        empty = partial(httpx2.post, f"{service.url}/generate", content=b"", timeout=HANG)
        assert until(lambda: empty().status_code != 503)
        assert closed_for(service, "descriptors") > 0
        # a line a tick of the sweep
        assert until(lambda: "file descriptors" in service.log.read_text())
