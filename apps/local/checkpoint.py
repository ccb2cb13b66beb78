"""Where the local model's files come from: a folder, the hub's cache, the hub, or the packaged model.

Decides, and shows a download's progress; reads no weights and imports neither torch nor transformers.
"""

import hashlib
import json
import logging
import math
import mmap
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from apps.local.gguf import WEIGHTS, read_gguf
from apps.local.packaged import PACKAGED_NAME, packaged_checkpoint

log = logging.getLogger(__name__)

# no name on the hub has it
AT_REVISION = "@"
GIGABYTE, MEGABYTE = 1e9, 1e6
PROGRESS_SECONDS, LOG_SECONDS = 1.0, 5.0
SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointError(Exception):
    """There is no checkpoint to serve; the message tells an operator what to do."""


class HubUnreachable(Exception):
    """There was no connection to the hub, or no answer in time. An answer that says no is a CheckpointError."""


class Report(Protocol):
    """Takes a step of the loading; where they are known, the seconds that it may take yet, and its bytes of all."""

    def __call__(
        self, step: str, seconds_left: float | None = None, done: int | None = None, total: int | None = None
    ) -> None: ...


class Snapshot(Protocol):
    """A model's files by its name on the hub; implemented by hub.py, since a folder does not need its vendor."""

    def cached(self) -> Path | None:
        """The folder in the hub's cache, where it is whole. Raises CheckpointError for a name that cannot be one."""

    def fetched(self, report: Report) -> Path:
        """The folder, downloaded where it is not there yet. Raises CheckpointError and HubUnreachable."""


Hub = Callable[[str], Snapshot]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with config.json, safetensors and a tokenizer; ``name`` is the model's that it really holds.

    ``fallback_reason`` says why it is not the one that was asked for; None where it is.
    """

    name: str
    folder: Path
    fallback_reason: str | None = None


def is_at_hand(local_model: str, hub: Hub) -> bool:
    """Whether the checkpoint is on this machine already. Raises CheckpointError for a name that cannot be one."""
    return looks_like_folder(local_model) or hub(local_model).cached() is not None


def find_checkpoint(
    local_model: str,
    fallback: Literal["packaged", "none"],
    cache_dir: Path,
    hub: Hub,
    report: Report = lambda *_: None,
) -> Checkpoint:
    """Blocks: up to seconds for the hub's decision, then for a download or the one conversion.

    Raises CheckpointError.
    """
    if looks_like_folder(local_model):
        return _from_folder(Path(local_model).expanduser())
    try:
        return Checkpoint(model_name(local_model), _complete(hub(local_model).fetched(report), local_model))
    except HubUnreachable as error:
        reason = f"{local_model} is not in the Hugging Face cache and the hub cannot be reached ({error})"
    if fallback == "none":
        raise CheckpointError(
            f"{reason}; LOCAL_FALLBACK=none: set LOCAL_MODEL to a folder, restore the network and start again, "
            "or set LOCAL_FALLBACK=packaged"
        )
    log.warning(
        "%s: the packaged model %s serves instead. Set LOCAL_MODEL to a folder with the checkpoint to serve that, "
        "or LOCAL_FALLBACK=none to serve nothing instead",
        reason,
        PACKAGED_NAME,
    )
    return Checkpoint(PACKAGED_NAME, packaged_checkpoint(cache_dir), reason)


def identity_of(folder: Path) -> str:
    """Changes with the files: their names, sizes and times. Reading gigabytes of weights would take seconds."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stamps = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]


def revision_of(folder: Path) -> str:
    """Changes with what the model is. Machines with the same files of a commit of the hub agree: times are left out."""
    if folder.parent.name != "snapshots":
        return identity_of(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stamps = [folder.name, *(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}" for path in files)]
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]


def parameters_of(folder: Path) -> int:
    """How many numbers the checkpoint's safetensors or GGUF files hold, read from their heads alone."""
    total = 0
    if (gguf := folder / WEIGHTS).is_file():
        with gguf.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            total += sum(math.prod(tensor.shape) for tensor in read_gguf(memory).tensors)
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def damaged_files(folder: Path) -> list[str]:
    """Names of weights whose SHA-256 is not the one that the hub's cache names them by. Reads every file once.

    A file of the hub's cache is a link to one that is named by its hash; of any other file nothing is known.
    """
    known = [(file, file.resolve().name) for file in sorted(folder.glob("*.safetensors")) if file.is_symlink()]
    return [file.name for file, name in known if SHA256.fullmatch(name) and _sha256(file) != name]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def model_name(local_model: str) -> str:
    """A folder's own name, since its path is for the operator alone; a hub's name without its revision."""
    if looks_like_folder(local_model):
        return Path(local_model).expanduser().name or local_model
    return name_and_revision(local_model)[0]


def name_and_revision(local_model: str) -> tuple[str, str | None]:
    """A hub's name, and the branch, tag or commit behind it: ``someone/llama@refs/pr/3``."""
    name, _, revision = local_model.partition(AT_REVISION)
    return name, revision or None


def looks_like_folder(local_model: str) -> bool:
    """A hub name is `name` or `owner/name`, its revision anything; everything else can only be meant as a folder."""
    path = Path(local_model).expanduser()
    written_as_path = path.is_absolute() or local_model.startswith((".", "~")) or "\\" in local_model
    model_parts = len(name_and_revision(local_model)[0].split("/"))
    return written_as_path or model_parts > 2 or local_model.endswith("/") or path.is_dir()


def _from_folder(folder: Path) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"LOCAL_MODEL is the folder {folder}, which does not exist")
    folder = folder.resolve()
    return Checkpoint(folder.name, _complete(folder, f"the folder {folder}"))


def _complete(folder: Path, what: str) -> Path:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"LOCAL_MODEL: {what} has no config.json, so it is not a transformers checkpoint")
    if not any(folder.glob("*.safetensors")) and not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"LOCAL_MODEL: {what} has no *.safetensors weights (pickled weights are never loaded)")
    return folder


class DownloadProgress:
    """Reports bytes, rate and time left of a download while the block runs, by the size of its folder.

    Every second to ``report``; to the log every 5 s, or as a line that is written over where standard error is a
    terminal.
    """

    def __init__(self, name: str, folder: Path, size: int, report: Report) -> None:
        self._name, self._folder, self._size, self._report = name, folder, size, report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="local-model-progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def step(self, begun_with: int, seconds: float) -> tuple[str, float | None, int]:
        """What is done so far, ``seconds`` after ``begun_with`` bytes were there; the seconds left, if known; bytes."""
        done = _bytes_in(self._folder)
        rate = (done - begun_with) / seconds if seconds > 0 else 0.0
        of = f" of {self._size / GIGABYTE:.2f} GB ({min(1.0, done / self._size):.0%})" if self._size else " GB"
        text = f"downloading {self._name}: {done / GIGABYTE:.2f}{of}, {rate / MEGABYTE:.1f} MB/s"
        if not self._size or rate <= 0:
            return text, None, done
        left = max(0.0, self._size - done) / rate
        return f"{text}, {left:.0f} s left", left, done

    def _watch(self) -> None:
        begun_with, seconds = _bytes_in(self._folder), 0.0
        terminal = sys.stderr is not None and sys.stderr.isatty()
        while not self._ended.wait(PROGRESS_SECONDS):
            seconds += PROGRESS_SECONDS
            text, left, done = self.step(begun_with, seconds)
            self._report(text, left, done, self._size or None)
            if terminal:
                print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
            elif seconds % LOG_SECONDS == 0:
                log.info("%s", text[0].upper() + text[1:])
        if terminal and seconds:
            print(file=sys.stderr)


def _bytes_in(folder: Path) -> int:
    """Of the files in it, those that are not whole yet included."""
    total = 0
    for path in folder.glob("*"):
        # a file is renamed when it is whole
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
