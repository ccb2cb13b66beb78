"""Calls over real sockets: what is sent, which connection serves, and what ends it."""

import asyncio
import socket

import pytest

from apps.transport.client import IDLE_SECONDS, MOST_IDLE, Client
from apps.transport.response import BadRequest, ConnectionFailed, Cut, ProtocolError
from apps.transport.tests.calls import Start, in_seconds, served
from apps.transport.tests.raw_server import CHUNKED, Talk, always, chunk, once, whole

LAST = b"0\r\n\r\n"


async def echo(talk: Talk) -> None:
    """Answers a request with itself."""
    while True:
        await talk.send(whole(await talk.request()))


async def test_a_request_is_the_bytes_that_it_should_be(start: Start) -> None:
    call = await start(echo)
    host = call.server.url.removeprefix("http://").encode()
    head = b"POST /v1/chat HTTP/1.1\r\nHost: " + host + b"\r\nX-Fixed: yes\r\nContent-Length: 7\r\n"
    assert await call.ask(b'{"a":1}') == (200, head + b'\r\n{"a":1}')
    response = await call.post(b'{"a":1}', more={"traceparent": "00-1"})
    assert await response.read(1, in_seconds(60)) == head + b'traceparent: 00-1\r\n\r\n{"a":1}'


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_a_body_of_any_size_arrives(size: int, start: Start) -> None:
    call = await start(echo)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    status, received = await call.ask(body)
    assert status == 200
    assert received.partition(b"\r\n\r\n")[2] == body


async def test_an_answer_in_single_bytes(start: Start) -> None:
    data = CHUNKED + chunk(b"he") + chunk(b"llo") + LAST
    call = await start(always(*(data[i : i + 1] for i in range(len(data)))))
    assert await call.ask() == (200, b"hello")
    assert await call.ask() == (200, b"hello")
    assert call.server.accepted == 1


async def test_one_call_after_another_uses_one_connection_and_two_at_once_use_two(start: Start) -> None:
    call = await start(always(whole(b"a")))
    for _ in range(20):
        assert await call.ask() == (200, b"a")
    assert call.server.accepted == 1
    await asyncio.gather(*(call.ask() for _ in range(5)))
    assert call.server.accepted == 5


async def test_what_is_only_asked_for_uses_an_idle_connection_and_a_new_one_where_that_was_closed(start: Start) -> None:
    async def twice(talk: Talk) -> None:
        for _ in range(2):
            await talk.send(whole(await talk.request(), b"X-Talk: %d" % talk.number))
        # read, and closed without a word
        await talk.request()

    call = await start(twice)
    talks = []
    for _ in range(5):
        response = await call.client.get(call.server.url + "/v1/capacity", in_seconds(60))
        assert (await response.read(60, in_seconds(60))).startswith(b"GET /v1/capacity HTTP/1.1\r\nHost: ")
        talks.append(response.header(b"x-talk"))
    assert talks == ["1", "1", "2", "2", "3"]


async def test_what_is_only_asked_for_is_asked_twice_at_most(start: Start) -> None:
    async def closing(talk: Talk) -> None:
        if talk.number == 1:
            await talk.send(whole(await talk.request()))
        await talk.request()

    call = await start(closing)
    await (await call.client.get(call.server.url + "/", in_seconds(60))).read(60, in_seconds(60))
    with pytest.raises(Cut):
        await call.client.get(call.server.url + "/", in_seconds(60))
    assert call.server.accepted == 2


async def test_the_connection_used_last_is_used_next(start: Start) -> None:
    async def numbered(talk: Talk) -> None:
        while True:
            await talk.request()
            await talk.send(whole(b"%d" % talk.number))

    call = await start(numbered)
    assert sorted(await asyncio.gather(call.ask(), call.ask())) == [(200, b"1"), (200, b"2")]
    last = (await call.ask())[1]
    assert {(await call.ask())[1] for _ in range(5)} == {last}


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"a", b"Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
        whole(b"a") + whole(b"forged"),
    ],
    ids=["close", "http-1.0", "two-answers"],
)
async def test_a_connection_that_is_not_kept_is_closed_here(answer: bytes, start: Start) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(answer)
        await talk.gone()

    call = await start(script)
    for _ in range(3):
        assert await call.ask() == (200, b"a")
    assert call.server.accepted == 3
    await call.server.until_nobody()


async def test_an_idle_connection_that_the_server_closes_is_not_used(start: Start) -> None:
    call = await start(once(whole(b"a")))
    for _ in range(3):
        assert await call.ask() == (200, b"a")
        await asyncio.sleep(0.05)
    assert call.server.accepted == 3


async def test_an_idle_connection_that_talks_unasked_is_closed(start: Start) -> None:
    async def talkative(talk: Talk) -> None:
        await talk.request()
        await talk.send(whole(b"mine"), whole(b"forged"))
        await talk.gone()

    call = await start(talkative)
    for _ in range(3):
        assert await call.ask() == (200, b"mine")
        await asyncio.sleep(0.05)
    assert call.server.accepted == 3
    await call.server.until_nobody()


async def test_a_server_that_speaks_first_is_not_asked_or_not_believed(start: Start) -> None:
    async def hasty(talk: Talk) -> None:
        await talk.send(b"x" + whole(b"forged"))
        await talk.gone()

    call = await start(hasty)
    with pytest.raises((ConnectionFailed, ProtocolError)):
        await call.post()
    await call.server.until_nobody()


@pytest.mark.long
async def test_idle_connections_are_bounded_in_number(start: Start) -> None:
    call = await start(always(whole(b"a")))
    many = MOST_IDLE + 20
    await asyncio.gather(*(call.ask(seconds=20) for _ in range(many)))
    assert call.server.accepted == many
    await call.server.until_nobody(5, most=MOST_IDLE)
    assert call.server.open == MOST_IDLE


async def test_a_connection_that_was_idle_too_long_is_not_used() -> None:
    """The clock is a loop's that says so: nobody waits 15 seconds here."""

    class Hurried(asyncio.SelectorEventLoop):
        ahead = 0.0

        def time(self) -> float:
            return super().time() + self.ahead

    async def main(loop: Hurried) -> None:
        async with served(always(whole(b"a"))) as call:
            await asyncio.gather(call.ask(), call.ask())
            loop.ahead += IDLE_SECONDS - 1
            assert await call.ask() == (200, b"a")
            assert call.server.accepted == 2
            loop.ahead += 2  # the other one has been idle since the beginning
            assert await call.ask() == (200, b"a")
            await asyncio.sleep(0.05)
            assert (call.server.accepted, call.server.open) == (2, 1)
            loop.ahead += IDLE_SECONDS + 1
            assert await call.ask() == (200, b"a")
            assert call.server.accepted == 3

    def run() -> None:
        loop = Hurried()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(loop))

    await asyncio.to_thread(run)


async def test_nobody_listens(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", {}, 2.0)
    with pytest.raises(ConnectionFailed):
        await client.post(f"http://127.0.0.1:{port}/", b"", in_seconds(60))
    await client.aclose()


async def test_a_name_that_does_not_exist_is_a_failed_connection() -> None:
    client = Client("http://nobody.invalid", {}, 5.0)
    with pytest.raises((ConnectionFailed, TimeoutError)):
        await client.post("http://nobody.invalid/", b"", in_seconds(60))
    await client.aclose()


@pytest.mark.parametrize(("connect", "seconds"), [(0.2, 60.0), (60.0, 0.2)], ids=["connect", "until"])
async def test_connecting_has_its_time(connect: float, seconds: float) -> None:
    with socket.socket() as full:  # accepts nothing once its queue is full
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        client = Client(f"http://127.0.0.1:{address[1]}", {}, connect)
        began = in_seconds(0)
        with pytest.raises(TimeoutError):
            await client.post(f"http://127.0.0.1:{address[1]}/", b"", in_seconds(seconds))
        assert 0.1 < in_seconds(0) - began < 30
        await client.aclose()
        for filler in fillers:
            filler.close()


async def test_ipv6(start: Start) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        call = await start(echo, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    _, received = await call.ask()
    assert b"\r\nHost: [::1]:" in received


async def test_no_redirect_is_followed(start: Start) -> None:
    call = await start(always(whole(b"", b"Location: /elsewhere", status=b"307 Temporary Redirect")))
    assert await call.ask() == (307, b"")


async def test_an_early_answer_to_a_body_that_nobody_reads_is_taken(start: Start) -> None:
    async def refusing(talk: Talk) -> None:
        await talk.reader.readuntil(b"\r\n\r\n")
        await talk.send(whole(b"too large", status=b"413 Content Too Large"))
        await asyncio.sleep(0.3)

    call = await start(refusing)
    assert await call.ask(b"x" * 30_000_000) == (413, b"too large")
    assert await call.ask() == (413, b"too large")
    assert call.server.accepted == 2


async def test_a_server_that_vanishes_under_a_large_body_is_cut(start: Start) -> None:
    async def vanishing(talk: Talk) -> None:
        await talk.reader.readuntil(b"\r\n\r\n")
        talk.reset()

    call = await start(vanishing)
    with pytest.raises(Cut):
        await call.post(b"x" * 30_000_000)


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200", whole(b"hello")[:-2], CHUNKED + b"5\r\nhel"])
@pytest.mark.parametrize("way", ["fin", "rst"])
async def test_a_lost_connection_is_cut(before: bytes, way: str, start: Start) -> None:
    async def losing(talk: Talk) -> None:
        await talk.request()
        await talk.send(before, b"")
        if way == "rst":
            talk.reset()

    call = await start(losing)
    with pytest.raises(Cut):
        await call.ask()


async def test_a_header_that_would_begin_another_is_not_sent(start: Start) -> None:
    call = await start(echo)
    for value in ("a\r\nX-Forged: b", "a\nb", "a\rb", "a\0b"):
        with pytest.raises(BadRequest):
            await call.post(more={"traceparent": value})
        with pytest.raises(BadRequest):
            await Client(call.server.url, {"Authorization": value}, 1.0).post(call.server.url, b"", in_seconds(60))
    assert call.server.accepted == 0


async def test_closing_cuts_what_is_in_use_and_refuses_what_comes_later(start: Start) -> None:
    async def hanging(talk: Talk) -> None:
        await talk.request()
        await talk.send(CHUNKED + chunk(b"begun"))
        await talk.gone()

    call = await start(hanging)
    response = await call.post()
    assert await response.chunk(1, in_seconds(60)) == b"begun"
    reading = asyncio.create_task(response.chunk(5, in_seconds(60)))
    await asyncio.sleep(0)
    await call.client.aclose()
    with pytest.raises(Cut):
        await reading
    await call.server.until_nobody()
    with pytest.raises(ConnectionFailed):
        await call.post()
    await call.client.aclose()
    await call.server.until_nobody()
