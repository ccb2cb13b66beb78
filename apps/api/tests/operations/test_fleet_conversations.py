"""Conversations over two real replicas: their follow-up turns find the replica that has computed their beginning."""

import asyncio
import re
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from apps.core.settings import Settings
from apps.local.packaged import PackagedModelError, packaged_gguf
from apps.tests.marks import marked
from apps.tests.support.fleet import fleet_file
from apps.tests.support.processes import running
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import until

SECRET = marked("FLEET_SECRET of conversations")
CHATS, TURNS, AT_ONCE = 12, 4, 4
COUNTER = re.compile(r"^genai_cached_prompt_tokens_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)
KNOWN = {"Authorization": f"Bearer {SECRET}"}


def missing() -> str:
    try:
        packaged_gguf()
    except PackagedModelError as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.long,
    pytest.mark.local,
    pytest.mark.skipif(bool(missing()), reason=f"needs requirements-local.txt: {missing()}"),
]


async def test_follow_up_turns_find_what_was_computed_of_their_conversation(tmp_path: Path) -> None:
    model = {
        "SERVE_ROLE": "model",
        "FLEET_SECRET": SECRET,
        "LOCAL_MODEL": "no/such-model",
        "LOCAL_FALLBACK": "packaged",
        "LOCAL_SLOTS": "8",
        # what a replica has in memory alone: on disk one would find the other's
        "LOCAL_PREFIX_MAX_BYTES": "0",
        "MODEL_CACHE_DIR": str(Settings().model_cache_dir),
    }
    with ExitStack() as stack:
        urls = [stack.enter_context(running(tmp_path, **model)).url for _ in range(2)]
        assert await asyncio.to_thread(until, lambda: all(map(_is_ready, urls)))
        file = fleet_file(tmp_path, *urls)
        gateway = stack.enter_context(serving_models(gateway_config=file, fleet_secret=SECRET))
        async with httpx2.AsyncClient(timeout=150) as client:
            chats = [_Chat(number) for number in range(CHATS)]
            turn = asyncio.Semaphore(AT_ONCE)
            for _ in range(TURNS):
                await asyncio.gather(*(chat.take_turn(client, gateway, turn) for chat in chats))
        counted = [_counted(url) for url in urls]
    found, follow_ups = sum(chat.found for chat in chats), CHATS * (TURNS - 1)
    told = sum(chat.cached for chat in chats)
    print(f"{found} of {follow_ups} follow-up turns found their prefix; cached tokens by replica: {counted}")
    # what the answers say is what the replicas have counted, and both took part
    assert sum(counted) == told and all(counted), (counted, told)
    assert found >= 0.9 * follow_ups, (found, follow_ups)


class _Chat:
    """A conversation, and how many of its follow-up turns went on from all of the prompt before."""

    def __init__(self, number: int) -> None:
        first = f"My name is Visitor {number}, and I like the number {number * 7}. Say hello to me."
        self._messages = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": first}]
        self._before = 0
        self.found = self.cached = 0

    async def take_turn(self, client: httpx2.AsyncClient, url: str, turn: asyncio.Semaphore) -> None:
        body = {"model": "fleet", "messages": self._messages, "max_tokens": 12, "temperature": 0}
        async with turn:
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        said, usage = answer.json()["choices"][0]["message"]["content"], answer.json()["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        self.cached += cached
        self.found += bool(self._before) and cached >= self._before
        self._before = usage["prompt_tokens"]
        self._messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And what else?"}]


def _is_ready(url: str) -> bool:
    told = httpx2.get(f"{url}/v1/capacity", headers=KNOWN, timeout=90).json()["models"]
    return any(model["kind"] == "chat" and model["status"] == "ready" for model in told)


def _counted(url: str) -> int:
    """Tokens of prompts that a replica has not computed again, by its own counter."""
    text = httpx2.get(f"{url}/metrics", headers=KNOWN, timeout=90).text
    return int(sum(float(value) for value in COUNTER.findall(text)))
