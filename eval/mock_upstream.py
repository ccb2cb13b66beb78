"""A stand-in for an OpenAI-compatible upstream, for tests, cases and benchmarks. Needs no key; says nothing sensible.

    python -m eval.mock_upstream --port 9100 [--tokens 20] [--delay-ms 0]

POST /v1/chat/completions answers with --tokens words, as SSE where the body says ``"stream": true``; GET /v1/models
lists one model. GET /stats counts what happened since POST /reset. The body's ``model`` chooses a behaviour:

    slow-<ms>             wait before the first byte and between streamed tokens
    fault-<status>[-<s>]  answer with that status, and Retry-After where <s> is given (429: 2 s)
    flaky-<n>             503 for this name's first n calls since /reset, then normal
    fault-hang            never answer              fault-rst       reset before any byte
    fault-cut             reset after half          fault-stall     send nothing more after half
    fault-badjson         a truncated body or event fault-error     an error event after half
    fault-nofinish        end in good order after half, without finish_reason or [DONE]
    fault-200error        status 200 around an error body
    echo                  the last message, a character a token
    tool-call             a call of the first tool that was offered
    future                fields that no client knows yet
    no-options            400 where the body has stream_options
    no-usage              takes stream_options, and tells no usage all the same

/v1/completions, /v1/responses and /v1/embeddings are there too, with the behaviours that need no stream. Beneath
/chat-only/v1 there is chat alone, and 404 for the rest.
"""

import argparse
import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from eval.mock_connection import Connection, Options, Stats

START_SECONDS = 10


class MockUpstream:
    """A mock that runs in a thread of this process; ``stats`` and ``reset`` need no HTTP call."""

    def __init__(self, options: Options) -> None:
        self.port = 0
        self._stats = Stats()
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mock-upstream", daemon=True)

    @property
    def base_url(self) -> str:
        """What OPENAI_BASE_URL is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """The same as GET /stats."""
        return self._stats.as_json()

    def reset(self) -> None:
        self._stats.reset()

    def start(self) -> None:
        self._thread.start()
        if not self._listening.wait(START_SECONDS):
            raise TimeoutError("the mock upstream did not start")

    def stop(self) -> None:
        """Close every connection, end the thread and wait for it."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with listening(self._options, self._stats) as self.port:
            self._listening.set()
            await self._stopped.wait()


@contextmanager
def mock_upstream(tokens: int = 20, delay_ms: float = 0) -> Iterator[MockUpstream]:
    """A mock upstream on a free port, for the time of a ``with`` block."""
    mock = MockUpstream(Options(tokens, delay_ms))
    mock.start()
    try:
        yield mock
    finally:
        mock.stop()


@asynccontextmanager
async def listening(options: Options, stats: Stats, port: int = 0) -> AsyncIterator[int]:
    """Listen on 127.0.0.1 and yield the port; at the end every connection is dropped."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(options, stats), "127.0.0.1", port, backlog=4096)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(stats.connections):
            connection.transport.abort()
        await server.wait_closed()


async def _serve_for_ever(options: Options, port: int) -> None:
    async with listening(options, Stats(), port) as bound:
        print(f"mock upstream on http://127.0.0.1:{bound}/v1", flush=True)
        await asyncio.Event().wait()


def _run_fast(options: Options, port: int) -> None:
    """On uvloop where it is installed: a benchmark should wait for the service, not for its mock."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve_for_ever(options, port))
    else:
        uvloop.run(_serve_for_ever(options, port))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9100, help="0 takes a free one and prints it")
    parser.add_argument("--tokens", type=int, default=20, help="words an answer")
    parser.add_argument("--delay-ms", type=float, default=0, help="wait before the first byte and between tokens")
    given = parser.parse_args()
    try:
        _run_fast(Options(given.tokens, given.delay_ms), given.port)
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
