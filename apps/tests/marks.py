"""The secrets of this run: random ones that tests hand out, and those that are made or sent while they run.

Whoever makes one says so here; `watch.py` looks for every one, and for any eight characters of one.
"""

import re
import secrets
import string
import threading
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

CHARACTERS = 40
SIGNS = 8
# eight characters that repeat themselves or are of a word ("xxxxxxxx", "password") are everywhere and betray nobody:
# tests choose such secrets, too; of a random one hardly a window in a thousand is left out by this
LEAST_DIFFERENT = 5
WORDS = re.compile(rb"[a-z _.-]+|[A-Z _.-]+")
LONGEST = 4096
# numpy takes longer to begin with fewer bytes than Python takes for them
FEW = 2048
NUMPY = find_spec("numpy") is not None
HASH = 2654435761  # Knuth's; of 32 bits the first 20 are kept
API_KEY = re.compile(r"\bga_[\w-]{43}(?![\w-])")
SECRET_NAMES = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$")
HEADER_NAMES = ("authorization", "x-api-key")
PROVIDERS_VARIABLE = "MARKED_PROVIDER_KEY"


class Marks:
    """``find`` is for threads that learn at the same time, as the servers of tests do."""

    def __init__(self) -> None:
        self._kinds: list[str] = []
        self._known: set[str] = set()
        self._windows: dict[bytes, int] = {}
        self._grams: set[bytes] = set()
        self._hashes = bytearray(2**20)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kinds)

    def learn(self, kind: str, secret: str) -> None:
        """All of it is secret; what is too short or too plain to be recognised is left out."""
        data = secret.encode("utf-8", "surrogateescape")
        with self._lock:
            if secret in self._known or not SIGNS <= len(data) <= LONGEST:
                return
            self._known.add(secret)
            self._kinds.append(f"{kind} #{len(self._kinds) + 1}")
            for at in range(len(data) - SIGNS + 1):
                window = data[at : at + SIGNS]
                if len(set(window)) >= LEAST_DIFFERENT and not WORDS.fullmatch(window):
                    self._windows.setdefault(window, len(self._kinds) - 1)
                    for gram in (window[part : part + 4] for part in range(5)):
                        self._grams.add(gram)
                        self._hashes[(int.from_bytes(gram, "little") * HASH & 0xFFFFFFFF) >> 12] = 1

    def find(self, data: bytes) -> list[str]:
        """The kinds and numbers of the secrets of which eight characters are in ``data``.

        Wherever eight bytes lie, they hold a whole group of four that begins at a multiple of five: only those are
        looked at.
        """
        with self._lock:
            grams, windows = self._grams, self._windows
            places = [at for at in self._candidates(data) if data[at : at + 4] in grams]
            found = {
                windows[data[start : start + SIGNS]]
                for at in places
                for start in range(max(0, at - 4), at + 1)
                if data[start : start + SIGNS] in windows
            }
            return [self._kinds[number] for number in sorted(found)]

    def _candidates(self, data: bytes) -> Iterable[int]:
        """Where a group may be a known one: by its hash where numpy makes that fast, as databases and models need."""
        if len(data) < FEW or not NUMPY:
            return range(0, len(data) - 3, 5)
        import numpy as np

        groups = np.ndarray(((len(data) - 4) // 5 + 1,), "<u4", data, strides=(5,))
        known = np.frombuffer(self._hashes, np.uint8)[groups * np.uint32(HASH) >> 12]
        return [at * 5 for at in np.flatnonzero(known).tolist()]


MARKS = Marks()


def learn(kind: str, secret: str) -> str:
    MARKS.learn(kind, secret)
    return secret


@cache
def marked(kind: str) -> str:
    """This run's secret of the kind."""
    signs = string.ascii_letters + string.digits
    return learn(kind, "".join(secrets.choice(signs) for _ in range(CHARACTERS)))


def learn_keys(text: str) -> list[str]:
    """The service's own keys in a text that may hold them: what made one, and says so once."""
    return [learn("API key", key) for key in API_KEY.findall(text)]


def learn_environment(environment: Mapping[str, str]) -> None:
    """What a process is given: keys and tokens by their names, passwords in addresses, headers of a collector."""
    for name, value in environment.items():
        if SECRET_NAMES.search(name):
            learn(name, value)
        elif name.endswith("_HEADERS"):
            learn(name, value.rpartition(" ")[2])
        elif "://" in value:
            learn_url(name, value)


def learn_url(name: str, url: str) -> str:
    """The password of an address, where it has one."""
    try:
        password = urlsplit(url).password
    except ValueError:  # a wrong one is what the test is about
        return url
    if password:
        learn(f"password in {name}", password)
    return url


def learn_credential(value: str) -> None:
    """What a caller sends to say who he is. Of a token of an issuer its signature alone is secret."""
    sent = value.rpartition(" ")[2]
    if sent.startswith("eyJ") and sent.count(".") == 2:
        learn("signature of a token", sent.rpartition(".")[2])
    else:
        learn("credential of a caller", sent)


def learn_file(file: Path) -> None:
    """A secret that the service made for itself."""
    learn(f"file {file.name}", file.read_text(encoding="utf-8", errors="surrogateescape").strip())
