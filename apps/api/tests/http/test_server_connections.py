"""How many connections an address may have, and what is said of those that are closed."""

import logging
from contextlib import ExitStack

import pytest

from apps.api.src.http.connections import WHY, ConnectionLimits, Connections
from apps.tests.support.reading import checked, connect, read_answer
from apps.tests.support.scraping import scrape
from apps.tests.support.serving import serving_models
from apps.tests.support.small_server import GET, only_answer


def test_an_address_has_so_many_connections_and_no_more() -> None:
    with serving_models(max_connections_per_address=3) as base, ExitStack() as stack:
        held = [stack.enter_context(connect(base)) for _ in range(3)]
        for connection in held:
            connection.sendall(GET + b"\r\n")
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        status, headers, body = only_answer(base, b"")
        assert checked(body, status)["code"] == "RATE_LIMIT_EXCEEDED"
        assert headers["retry-after"] == "1"
        held[0].close()
        while True:  # until the server has heard of it
            with connect(base) as connection:
                connection.sendall(GET + b"\r\n")
                if read_answer(connection).startswith(b"HTTP/1.1 200 "):
                    break


def test_a_proxy_that_is_trusted_may_have_any_number() -> None:
    with (
        serving_models(max_connections_per_address=1, forwarded_allow_ips=["127.0.0.0/8"]) as base,
        ExitStack() as stack,
    ):
        for _ in range(5):
            connection = stack.enter_context(connect(base))
            connection.sendall(GET + b"\r\n")
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


class Held:
    """A connection as its registry knows it."""

    def __init__(self) -> None:
        self.aborted = False

    def check(self, now: float) -> None: ...

    def abort(self) -> None:
        self.aborted = True


async def test_the_addresses_of_one_ipv6_network_count_together() -> None:
    registry = Connections(ConnectionLimits(an_address=1))
    assert registry.opened(Held(), "2001:db8::1", 9) is None
    assert registry.opened(Held(), "2001:db8::2", 9) == "address_limit"
    assert registry.opened(Held(), "2001:db8:0:1::1", 9) is None
    assert registry.opened(Held(), "::ffff:192.0.2.1", 9) is None
    assert registry.opened(Held(), "192.0.2.1", 9) == "address_limit"


def test_every_reason_is_a_series_from_the_start(patient: str) -> None:
    assert scrape(patient).values("reason") >= set(WHY)


def test_the_log_says_it_in_one_line_for_all_of_a_tick(caplog: pytest.LogCaptureFixture) -> None:
    registry = Connections(ConnectionLimits())
    with caplog.at_level(logging.WARNING, "apps.api.src.http.connections"):
        for _ in range(1000):
            registry.note("head_timeout", "192.0.2.7")
        registry.note("idle", "192.0.2.7")
        assert caplog.messages == []
        registry.say()
        registry.say()
    assert caplog.messages == [
        "Closed 1000 connection(s), the last of 192.0.2.7: a request's head was not there within HEAD_TIMEOUT"
    ]
