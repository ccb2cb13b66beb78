"""The writer of a stream, frame by frame: what it closes, what it sends and when, on a clock that no machine delays."""

import asyncio
import selectors
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from apps.api.src.http.shutdown import ClientGone, Shutdown
from apps.api.src.http.streaming import LastFrame, StreamedResponse
from apps.core.errors import AppError, UpstreamError

STALLED_AFTER = 60.0
FOREVER = 100_000.0
PING, A, B, END, ERROR = b": ping\n\n", b"a", b"b", LastFrame(b"end"), b"error"
Frames = AsyncGenerator[bytes, None]


class JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: what it is to wait for is over at once, and its clock says so."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("all tasks wait, and none for the clock")
        self.now += timeout
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop on that selector's clock."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class Script:
    """Frames, and seconds of silence between them; ``closing`` is how long its end takes."""

    def __init__(self, *steps: bytes | float | AppError, closing: float = 0.0) -> None:
        self._steps = steps
        self._closing = closing
        self.closed = False

    async def frames(self) -> Frames:
        try:
            for step in self._steps:
                if isinstance(step, AppError):
                    raise step
                if isinstance(step, bytes):
                    yield step
                else:
                    await asyncio.sleep(step)
        finally:
            await asyncio.sleep(self._closing)
            self.closed = True


class Server:
    """Sends a script as a response, to a client that takes ``reading`` seconds to read a body, by its text.

    The client is there for ``stays`` seconds.
    """

    def __init__(
        self,
        script: Script,
        reading: dict[bytes, float] | None = None,
        *,
        ping: bytes = PING,
        stays: float = FOREVER * 2,
        on_body: Callable[[Message], None] = lambda message: None,
    ) -> None:
        self._reading = reading or {}
        self._stays = stays
        self._on_body = on_body
        self._writing = 0
        self.most_at_once = 0
        self.messages: list[Message] = []
        self.times: list[float] = []
        self.raised: Exception | None = None
        # held here, so that nothing but the response closes it
        self._frames = script.frames()
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(self._serve(ping))
            # before the loop ends, which closes all generators
            self.closed = script.closed

    async def _serve(self, ping: bytes) -> None:
        response = StreamedResponse(
            self._frames,
            media_type="text/event-stream",
            ping=ping,
            error_frame=lambda error: ERROR,
            headers=list,
            shutdown=Shutdown(20),
        )
        state = SimpleNamespace(settings=SimpleNamespace(stalled_after=STALLED_AFTER, debug=False))
        began = asyncio.get_running_loop().time()
        try:
            await response({"type": "http", "app": SimpleNamespace(state=state)}, self._receive, self._send)
        except (RuntimeError, ClientGone) as error:
            self.raised = error
        self.lasted = asyncio.get_running_loop().time() - began

    async def _receive(self) -> Message:
        await asyncio.sleep(self._stays)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.messages.append(message)
        self.times.append(asyncio.get_running_loop().time())
        if message["type"] == "http.response.body":
            self._on_body(message)
        self._writing += 1
        self.most_at_once = max(self.most_at_once, self._writing)
        try:
            await asyncio.sleep(self._reading.get(message.get("body", b""), 0.0))
        finally:
            self._writing -= 1

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages if message["type"] == "http.response.body"]

    @property
    def whole(self) -> bool:
        """Whether the end of the body was sent, once and last."""
        more = [message["more_body"] for message in self.messages[1:]]
        return not more[-1] and all(more[:-1])


def test_the_frames_are_closed_before_the_client_may_know_that_the_answer_is_whole() -> None:
    script, at_the_end = Script(A, END, B), list[bool]()
    server = Server(script, on_body=lambda message: None if message["more_body"] else at_the_end.append(script.closed))
    assert (server.bodies, server.whole) == ([A, END], True)
    assert at_the_end == [True]


def test_the_frames_are_closed_where_the_client_is_given_up() -> None:
    server = Server(Script(A, B, END), {B: FOREVER})
    assert server.bodies == [A, B]
    assert server.closed


def test_a_stream_without_a_frame_is_an_error_and_nothing_of_it_is_sent() -> None:
    server = Server(Script())
    assert str(server.raised) == "a stream has a first frame"
    assert server.messages == []


def test_a_client_that_leaves_before_the_first_frame_is_raised_to_who_would_answer_otherwise() -> None:
    server = Server(Script(FOREVER, END), stays=5)
    assert isinstance(server.raised, ClientGone)
    assert (server.messages, server.closed) == ([], True)


def test_a_client_that_leaves_behind_the_first_frame_ends_the_response() -> None:
    server = Server(Script(A, FOREVER, END), stays=5)
    assert (server.raised, server.bodies, server.closed) == (None, [A], True)


@pytest.mark.parametrize("slow", [A, END])
def test_a_client_that_takes_nothing_for_its_time_is_given_up_and_gets_no_ping(slow: bytes) -> None:
    """A ping would go into the middle of the frame, whichever it is, and behind the end of the body."""
    server = Server(Script(A, END), {slow: FOREVER})
    assert server.bodies[-1] == slow
    assert PING not in server.bodies
    assert STALLED_AFTER < server.lasted < STALLED_AFTER + 2


@pytest.mark.parametrize("slow", [A, END])
def test_a_client_that_reads_slowly_gets_the_frames_one_at_a_time_and_no_ping(slow: bytes) -> None:
    server = Server(Script(A, B, END), {slow: STALLED_AFTER - 5})
    assert (server.bodies, server.whole, server.most_at_once) == ([A, B, END], True, 1)


def test_a_model_may_be_silent_for_longer_than_a_client() -> None:
    """Where there are no pings, nothing is sent meanwhile, and nobody is given up."""
    server = Server(Script(A, 3 * STALLED_AFTER, B, END), ping=b"")
    assert (server.bodies, server.whole) == ([A, B, END], True)


def test_a_ping_comes_in_the_sixteenth_second_of_silence() -> None:
    server = Server(Script(A, 30.0, B, END))
    assert (server.bodies, server.whole) == ([A, PING, B, END], True)
    _, first, ping, *_ = server.times
    assert 15 < ping - first <= 16


def test_silence_begins_when_the_client_has_taken_what_was_sent() -> None:
    server = Server(Script(A, 14.0, B, END), {A: 14.0})
    assert server.bodies == [A, B, END]
    server = Server(Script(A, 50.0, B, END), {PING: 20.0})
    assert server.bodies == [A, PING, B, END]


def test_a_client_that_does_not_take_a_ping_is_given_up() -> None:
    server = Server(Script(A, FOREVER, END), {PING: FOREVER})
    assert server.bodies == [A, PING]
    assert server.closed
    assert STALLED_AFTER < server.lasted < STALLED_AFTER + 20


def test_an_only_frame_is_sent_when_its_generator_takes_long_to_close() -> None:
    server = Server(Script(END, closing=5.0))
    assert (server.bodies, server.whole, server.closed) == ([END], True, True)


def test_an_error_behind_the_first_frame_is_the_end_of_the_body_and_holds_what_the_call_had_no_more() -> None:
    error = UpstreamError("no")
    server = Server(Script(A, error))
    assert (server.bodies, server.whole) == ([A, ERROR], True)
    assert error.__traceback__ is None
