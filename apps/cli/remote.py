"""The service as the commands reach it over HTTP: options, requests, streams and printed results."""

import json
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import httpx2
import typer

from apps.models.event_stream import EventStreamDecoder
from apps.models.upstream_errors import NOT_CONFIGURED

URL = "http://localhost:8000"
FAILED, UNREACHABLE = 1, 4
CONNECT_SECONDS, READ_SECONDS = 5.0, 330.0
# a limit of requests is open again within a minute; a longer wait is a spent budget's, and a matter of the caller's
LONGEST_WAIT, MOST_WAITS = 60, 10
# of a terminal's columns, for a text that is wrapped
LEAST_ROOM = 20
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
FENCES = ("```", "~~~")
TAB = 8

Url = Annotated[str, typer.Option("--url", envvar="GENAI_URL", help="Address of the service.")]
Key = Annotated[str, typer.Option("--key", envvar="GENAI_API_KEY", help="API key, where the service asks for one.")]
Json = Annotated[bool, typer.Option("--json", help="Print the service's JSON instead of text.")]


class CommandFailure(Exception):
    """Ends a command with one line on standard error.

    Args:
        message: the line.
        code: the exit status: 1 failed, 4 the service cannot be reached.
    """

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Service:
    """A running service at ``url``. Every method raises CommandFailure.

    ``patient`` waits out a 429's Retry-After of at most a minute, for work of many requests.
    """

    url: str
    key: str = ""
    patient: bool = False
    sleep: Callable[[float], None] = time.sleep

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, accept: Sequence[int] = ()) -> Any:
        """Return the JSON of a GET. ``accept`` are statuses other than 2xx that are answers too."""
        return self._json("GET", path, accept=accept, params=params)

    def get_all(
        self, path: str, rows: str, cursor: tuple[str, str], params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the JSON of a GET with the ``rows`` of all its pages.

        ``cursor``: the field that says where the next page begins, null on the last, and the parameter that takes it.
        """
        field, parameter = cursor
        whole = page = self.get(path, params)
        while (begin := page.get(field)) is not None:
            page = self.get(path, {**(params or {}), parameter: begin})
            if page.get(field) == begin:
                raise CommandFailure(f"{path} answers with the same page again")
            whole[rows] += page[rows]
        if field in whole:
            whole[field] = None
        return dict(whole)

    def post(self, path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a POST."""
        return self._json("POST", path, json=body, params=params)

    def delete(self, path: str) -> Any:
        """Return the JSON of a DELETE; None where it has none."""
        return self._json("DELETE", path)

    def upload(self, path: str, files: Sequence[tuple[str, tuple[str, bytes]]]) -> Any:
        """Return the JSON of a multipart POST."""
        return self._json("POST", path, files=files)

    def stream(self, path: str, body: Any, params: Mapping[str, Any] | None = None) -> Iterator[tuple[str, str]]:
        """Yield (event type, data) of a streamed POST. An `error` event and a cut stream raise."""
        try:
            with (
                self._client() as client,
                client.stream("POST", path, json=body, params=params) as response,
            ):
                if response.is_error:
                    response.read()
                    raise CommandFailure(reason_of(response))
                decoder = EventStreamDecoder()
                for chunk in response.iter_raw():
                    for event in decoder.feed(chunk):
                        data = event.data.decode()
                        if event.type == "error":
                            raise CommandFailure(_message(data))
                        yield event.type, data
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def _json(self, method: str, path: str, *, accept: Sequence[int] = (), **rest: Any) -> Any:
        response = self._request(method, path, **rest)
        for _ in range(MOST_WAITS if self.patient else 0):
            wait = _seconds_until_allowed(response)
            if wait is None:
                break
            self.sleep(wait)
            response = self._request(method, path, **rest)
        if response.is_error and response.status_code not in accept:
            raise CommandFailure(reason_of(response))
        try:
            return response.json() if response.content else None
        except ValueError:
            raise CommandFailure(f"{self.url}{path} answered no JSON: is it this service?") from None

    def _request(self, method: str, path: str, **rest: Any) -> httpx2.Response:
        try:
            with self._client() as client:
                return client.request(method, path, **rest)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def _client(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=READ_SECONDS)
        # the service is addressed directly: a proxy of the environment is for the internet
        return httpx2.Client(base_url=self.url.rstrip("/"), headers=headers, timeout=timeout, trust_env=False)

    def _unreachable(self, error: Exception) -> CommandFailure:
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return CommandFailure(f"No service answers at {self.url}: start one with `genai serve`", UNREACHABLE)
        return CommandFailure(f"The connection to {self.url} broke: {type(error).__name__}", UNREACHABLE)


def _seconds_until_allowed(response: httpx2.Response) -> int | None:
    """Seconds that a 429 asks to wait; None for another answer and for more than a minute."""
    wait = response.headers.get("Retry-After", "")
    if response.status_code != 429 or not (wait.isascii() and wait.isdigit()) or int(wait) > LONGEST_WAIT:
        return None
    return int(wait)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their column names, aligned; on a terminal the last column is wrapped to its width."""
    cells = [list(columns), *([in_a_line(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    begin = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = shutil.get_terminal_size().columns - begin if sys.stdout.isatty() else 0
    for row in cells:
        lines = [row[-1]]
        if room >= LEAST_ROOM:
            lines = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        first = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        typer.echo("  ".join([*first, lines[0]]).rstrip())
        for line in lines[1:]:
            typer.echo(" " * begin + line)


class Wrap:
    """Breaks a text that comes in pieces between words, for a terminal of so many columns.

    A word waits until it is whole. Fenced code keeps its lines, so that they can be copied.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._column = 0
        self._gap = self._word = self._fence = ""

    def take(self, text: str) -> str:
        """What can be shown now."""
        shown = []
        for letter in text:
            if letter == "\n":
                shown += [self.end(), letter]
                self._column = 0
            elif letter in " \t":
                shown.append(self._place())
                self._gap += letter
            else:
                self._word += letter
                # texts without spaces are broken between any two letters that are two columns wide
                if _columns(letter) == 2 or len(self._word) >= self._columns:
                    shown.append(self._place())
        return "".join(shown)

    def end(self) -> str:
        """The rest of the line."""
        shown = self._place()
        self._gap = ""
        return shown

    def _place(self) -> str:
        word, gap = self._word, self._gap
        if not word:
            return ""
        self._word = self._gap = ""
        if self._column == 0 and word.startswith(self._fence or FENCES):
            self._fence = "" if self._fence else word[:3]
        wide = _columns(word)
        end = self._column + _columns(gap) + wide
        if self._column and end > self._columns and not self._fence:
            self._column = wide
            return f"\n{word}"
        self._column = end
        return gap + word


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes; a tab may take fewer."""
    return sum(TAB if letter == "\t" else _columns_of(letter) for letter in text)


def _columns_of(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def print_text(pieces: Iterable[str]) -> None:
    """Print a model's text as it comes; on a terminal it is broken between words.

    What has come is shown where ``pieces`` raises, too.
    """
    wrap = Wrap(shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
    begun = False
    try:
        for piece in pieces:
            text = printable(piece)
            _write(text if wrap is None else wrap.take(text))
            begun = True
    finally:
        if begun:
            _write("\n" if wrap is None else f"{wrap.end()}\n")


def printable(text: str) -> str:
    """The text of a model or of a document without control characters, which a terminal would obey."""
    return CONTROL.sub("", text)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def read_stdin() -> str:
    """Return what is piped in; empty on a terminal."""
    return "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()


def in_a_line(value: Any) -> str:
    """A value of JSON as people read it, on one line and without control characters."""
    if isinstance(value, dict):
        return ", ".join(f"{in_a_line(name)}={in_a_line(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(in_a_line, value)) or "-"
    if value is None:
        return "-"
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    # a name may hold control characters, which a terminal would obey
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def reason_of(response: httpx2.Response) -> str:
    """What a failed answer says, and when to try again where waiting helps."""
    message = _message(response.text, f"HTTP {response.status_code}")
    if message.startswith(NOT_CONFIGURED):
        # waiting mends no setting; and a name that nothing serves goes to the default provider, which may lack its key
        return f"{message} (`genai models` lists the names)"
    wait = response.headers.get("Retry-After")
    return f"{message} (try again in {wait} s)" if wait else message


def _message(text: str, otherwise: str = "The service reported an error") -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return otherwise
