"""Attacks on a real process of the service, and what each cost: memory, time, and other callers' waiting.

    python -m eval.attacks [--only NAME ...]

Starts the service with its default limits (the times are shorter, so that a run takes two minutes), attacks it in one
way after the other while another caller asks for /healthz all the time, and prints a table; reports/attacks.json has
it, too. Exits with 1 where the process grew by more than 20 MB, an attacker was not closed, others waited longer than
100 ms (p95), or the metric or the line in the log is missing.
"""

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from apps.api.src.http.connections import WHY, Reason
from apps.tests.support.odd_upstream import DONE, ROLE, STOP, chunk, odd_upstream, streamed
from apps.tests.support.processes import Running, running

REPORT = Path(__file__).parents[1] / "reports" / "attacks.json"
TIMES = {"HEAD_TIMEOUT": "1", "BODY_GRACE": "1", "IDLE_TIMEOUT": "2", "DRAIN_TIMEOUT": "1", "STALLED_AFTER": "2"}
# more than the kernel and the service keep for a reader that takes nothing
LARGE = streamed(ROLE, *[chunk({"content": "x" * 1000})] * 8000, STOP, DONE)
MOST_MEGABYTES = 20.0
MOST_WAIT = 0.1
HANG = 120.0
FLOOD = 6400 * 2**20
SLOW_CLIENTS = 200
READERS = 50
PROBE_EVERY = 0.02
SAMPLE_EVERY = 0.05
LINES_WITHIN = 5.0


@dataclass(slots=True)
class Attack:
    """``run`` attacks and returns how many connections were held and how many of them were closed by the service."""

    name: str
    run: Callable[[Running], tuple[int, int]]
    reasons: Sequence[Reason]


@dataclass(slots=True)
class Measured:
    """Megabytes of the process's growth at its highest and behind the attack, seconds, and what can be seen of it."""

    attack: str
    grew: float
    kept: float
    held: int
    closed: int
    seconds: float
    counted: int
    lines: int
    waits: list[float] = field(default_factory=list)

    @property
    def p95(self) -> float:
        """Seconds that another caller waited, but for one of twenty."""
        return statistics.quantiles(self.waits, n=20)[-1] if len(self.waits) > 1 else sum(self.waits)

    def bounded(self) -> bool:
        """What does not depend on how busy the machine is."""
        return self.grew <= MOST_MEGABYTES and self.closed == self.held and self.counted > 0 and self.lines > 0


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    """The head of a request without its end."""
    json_type = ["Content-Type: application/json"] if method == "POST" else []
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: x", *json_type, *lines)).encode()


def open_to(service: Running, receive_bytes: int = 0) -> socket.socket:
    parts = urlsplit(service.url)
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(HANG)
    connection.connect((parts.hostname or "", parts.port or 0))
    return connection


GET = head("/healthz", method="GET")
CHUNKED = head("/generate", "Transfer-Encoding: chunked") + b"\r\n"
FLOODS: dict[str, tuple[bytes, bytes, Reason]] = {
    "one long header": (GET + b"X-A: ", b"a" * 65536, "head_too_large"),
    "many small headers": (GET, b"X-B: c\r\n" * 8192, "too_many_headers"),
    "a long path": (b"GET /healthz?", b"a" * 65536, "head_too_large"),
    "one long trailer": (CHUNKED + b"0\r\nX-A: ", b"a" * 65536, "head_too_large"),
    "many trailers": (CHUNKED + b"0\r\n", b"X-B: c\r\n" * 8192, "too_many_headers"),
    "chunk extensions": (CHUNKED + b"5;", b"a" * 65536, "head_too_large"),
    "pipelined requests": (b"", (GET + b"\r\n") * 1000, "pipelined"),
    "a body that is refused": (
        head("/generate", "Content-Length: 99999999999") + b"\r\n",
        b"x" * 65536,
        "body_after_answer",
    ),
    "chunks over the limit": (CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", "body_after_answer"),
}
SLOW: dict[str, tuple[bytes, bytes, Reason]] = {
    "slow heads": (GET, b"X", "head_timeout"),
    "slow bodies": (head("/v1/chat/completions", "Content-Length: 100000") + b"\r\n", b" ", "body_too_slow"),
    "silence": (b"", b"", "idle"),
    "silence behind an answer": (GET + b"\r\n", b"", "idle"),
}


def flood(start: bytes, block: bytes, service: Running) -> tuple[int, int]:
    """Send the block until the service closes the connection."""
    with open_to(service) as connection:
        try:
            connection.sendall(start)
            for _ in range(FLOOD // len(block)):
                connection.sendall(block)
        except OSError:
            return 1, 1
    return 1, 0


def hold(start: bytes, byte: bytes, service: Running) -> tuple[int, int]:
    """Two hundred connections that send a byte now and then, or nothing."""
    with ExitStack() as stack:
        held = [stack.enter_context(open_to(service)) for _ in range(SLOW_CLIENTS)]
        for connection in held:
            connection.sendall(start)
            connection.setblocking(False)
        alive, ends = set(held), time.monotonic() + HANG
        while alive and time.monotonic() < ends:
            time.sleep(PROBE_EVERY)
            for connection in tuple(alive):
                try:
                    if byte:
                        connection.send(byte)
                    while connection.recv(65536):
                        pass
                    alive.discard(connection)
                except BlockingIOError:
                    continue
                except OSError:
                    alive.discard(connection)
        return len(held), len(held) - len(alive)


def read_nothing(service: Running) -> tuple[int, int]:
    """Fifty callers that ask for a stream of megabytes and do not read it."""
    before = closed_for(service, "stalled_reader")
    message = {"role": "user", "content": "x" * 30_000}
    body = json.dumps({"model": "large", "stream": True, "messages": [message]}).encode()
    request = head("/v1/chat/completions", f"Content-Length: {len(body)}") + b"\r\n" + body
    with ExitStack() as stack:
        for _ in range(READERS):
            stack.enter_context(open_to(service, receive_bytes=4096)).sendall(request)
        ends = time.monotonic() + HANG
        # they see nothing of it, since they do not read: the service says how many it has closed
        while (closed := closed_for(service, "stalled_reader") - before) < READERS and time.monotonic() < ends:
            time.sleep(SAMPLE_EVERY)
    return READERS, int(closed)


ATTACKS = [
    *(Attack(name, partial(flood, start, block), (reason,)) for name, (start, block, reason) in FLOODS.items()),
    *(Attack(name, partial(hold, start, byte), (reason,)) for name, (start, byte, reason) in SLOW.items()),
    Attack("stalled readers", read_nothing, ("stalled_reader",)),
]


def closed_for(service: Running, *reasons: Reason) -> int:
    with urlopen(f"{service.url}/metrics", timeout=HANG) as answer:  # noqa: S310 - the service that was started here
        lines = answer.read().decode().splitlines()
    wanted = {f'genai_connections_closed_total{{reason="{reason}"}}' for reason in reasons}
    return int(sum(float(value) for name, _, value in (line.partition(" ") for line in lines) if name in wanted))


def lines_for(service: Running, *reasons: Reason) -> int:
    text = service.log.read_text()
    return sum(text.count(WHY[reason]) for reason in reasons)


def megabytes(service: Running) -> float:
    """Reads /proc, so Linux alone can be attacked."""
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def repeated(work: Callable[[], None], every: float) -> Iterator[None]:
    """In a thread, for the length of the block."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ask_health(service: Running, waits: list[float]) -> None:
    began = time.perf_counter()
    with urlopen(f"{service.url}/healthz", timeout=HANG) as answer:  # noqa: S310 - the service that was started here
        answer.read()
    waits.append(time.perf_counter() - began)


def measured(attack: Attack, service: Running) -> Measured:
    """Run an attack; what it cost."""
    before, counted, lines = (
        megabytes(service),
        closed_for(service, *attack.reasons),
        lines_for(service, *attack.reasons),
    )
    highest, waits = [before], list[float]()
    began = time.monotonic()
    with (
        repeated(lambda: highest.append(megabytes(service)), SAMPLE_EVERY),
        repeated(lambda: ask_health(service, waits), PROBE_EVERY),
    ):
        held, closed = attack.run(service)
        seconds = time.monotonic() - began
    ends = time.monotonic() + LINES_WITHIN
    while lines_for(service, *attack.reasons) == lines and time.monotonic() < ends:
        time.sleep(SAMPLE_EVERY)
    after = megabytes(service)
    return Measured(
        attack.name,
        round(max(*highest, after) - before, 1),
        round(after - before, 1),
        held,
        closed,
        round(seconds, 1),
        closed_for(service, *attack.reasons) - counted,
        lines_for(service, *attack.reasons) - lines,
        waits,
    )


@contextmanager
def attacked_service(folder: Path) -> Iterator[Running]:
    """The service before an upstream, after its first requests: what these leave behind is no attack's doing."""
    with (
        odd_upstream({"large": LARGE}) as upstream,
        running(folder, OPENAI_BASE_URL=upstream.base_url, AUTH="off", **TIMES) as service,
    ):
        for _ in range(50):
            ask_health(service, [])
        closed_for(service)
        yield service


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.attacks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="attacks whose names have one of these")
    options = parser.parse_args(arguments)
    chosen = [one for one in ATTACKS if not options.only or any(part in one.name for part in options.only)]
    results = []
    print(f"{'attack':26}{'MB +':>7}{'kept':>7}{'closed':>10}{'s':>6}{'metric':>8}{'lines':>7}{'others p95 ms':>15}")
    for attack in chosen:
        with tempfile.TemporaryDirectory() as folder, attacked_service(Path(folder)) as service:
            one = measured(attack, service)
        results.append(one)
        print(
            f"{one.attack:26}{one.grew:7.1f}{one.kept:7.1f}{f'{one.closed}/{one.held}':>10}{one.seconds:6.1f}"
            f"{one.counted:8}{one.lines:7}{one.p95 * 1000:15.1f}",
            flush=True,
        )
    shown = [
        {key: value for key, value in asdict(one).items() if key != "waits"} | {"p95_ms": round(one.p95 * 1000, 1)}
        for one in results
    ]
    REPORT.write_text(json.dumps(shown, indent=1) + "\n")
    return int(not all(one.bounded() and one.p95 <= MOST_WAIT for one in results))


if __name__ == "__main__":
    sys.exit(main())
