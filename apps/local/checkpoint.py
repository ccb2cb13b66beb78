"""Where the local model's files come from: a folder, the hub's cache, the hub, or the packaged model.

Decides and fetches; reads no weights and imports neither torch nor transformers.
"""

import errno
import hashlib
import importlib.util
import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from apps.local.packaged import PACKAGED_NAME, packaged_checkpoint

log = logging.getLogger(__name__)

# what a Llama-shaped checkpoint needs; never pickled weights (*.bin, *.pt), never code
WANTED = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"]
WANTED += ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja"]
HUB_TIMEOUT = 4.0


class CheckpointError(Exception):
    """There is no checkpoint to serve; the message tells an operator what to do."""


class HubUnreachable(Exception):
    """There was no connection to the hub, or no answer in time. An answer that says no is a CheckpointError."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with config.json, safetensors and a tokenizer; ``name`` is the model's that it really holds.

    ``fallback_reason`` says why it is not the one that was asked for; None where it is.
    """

    name: str
    folder: Path
    fallback_reason: str | None = None


def find_checkpoint(local_model: str, fallback: Literal["packaged", "none"], cache_dir: Path) -> Checkpoint:
    """Blocks: up to seconds for the hub's decision, then for a download or the one conversion.

    Raises CheckpointError.
    """
    if looks_like_folder(local_model):
        return _from_folder(Path(local_model).expanduser())
    try:
        return Checkpoint(local_model, _complete(_from_hub(local_model), local_model))
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
    told = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def looks_like_folder(local_model: str) -> bool:
    """A hub name is `name` or `owner/name`; everything else can only be meant as a folder."""
    path = Path(local_model).expanduser()
    written_as_path = path.is_absolute() or local_model.startswith((".", "~")) or "\\" in local_model
    return written_as_path or local_model.count("/") > 1 or local_model.endswith("/") or path.is_dir()


def _from_folder(folder: Path) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"LOCAL_MODEL is the folder {folder}, which does not exist")
    folder = folder.resolve()
    return Checkpoint(folder.name, _complete(folder, f"the folder {folder}"))


def _complete(folder: Path, what: str) -> Path:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"LOCAL_MODEL: {what} has no config.json, so it is not a transformers checkpoint")
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"LOCAL_MODEL: {what} has no *.safetensors weights (pickled weights are never loaded)")
    return folder


def _from_hub(name: str) -> Path:
    """The snapshot's folder in the Hugging Face cache, downloaded where it is not there yet."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise CheckpointError("huggingface_hub is not installed: pip install -r requirements-local.txt")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        folder = Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=["*/*"], local_files_only=True))
        # a tool may have cached a part of the checkpoint only
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    except HFValidationError as error:
        raise CheckpointError(f"LOCAL_MODEL={name} is neither a folder nor a valid hub name: {error}") from error
    except LocalEntryNotFoundError:
        pass
    if constants.HF_HUB_OFFLINE:
        raise HubUnreachable("HF_HUB_OFFLINE is set")
    _ask_hub(name)
    return _download(name)


def _ask_hub(name: str) -> None:
    """The one question that decides, in seconds, whether the hub can be reached and has the model."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        _within(HUB_TIMEOUT, lambda: HfApi().model_info(name, timeout=HUB_TIMEOUT))
    except GatedRepoError as error:
        raise CheckpointError(f"LOCAL_MODEL={name} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"LOCAL_MODEL={name} does not exist on the hub, or needs HF_TOKEN") from error
    except Exception as error:
        raise _judged(error, name, "the hub was asked") from error


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    log.info("Downloading %s from the hub", name)
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=["*/*"]))
    except Exception as error:
        raise _judged(error, name, "the download broke off") from error


def _judged(error: Exception, name: str, what: str) -> CheckpointError | HubUnreachable:
    """Only a missing connection may pass by itself; all else an operator must hear of, so nothing falls back."""
    import httpx2
    from huggingface_hub.errors import LocalEntryNotFoundError

    causes = [error]
    while isinstance(cause := causes[-1].__cause__, Exception):
        causes.append(cause)
    # the download wraps what went wrong in "not found locally"
    told = next((cause for cause in causes if not isinstance(cause, LocalEntryNotFoundError)), error)
    reason = f"{what}: {_words(told)}"
    http = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ProxyError)
    lost = isinstance(told, (ConnectionError, TimeoutError, *http))
    # a certificate that is refused is a NetworkError too
    if lost and not any(isinstance(cause.__context__, ssl.SSLError) for cause in causes):
        return HubUnreachable(reason)
    return CheckpointError(f"LOCAL_MODEL={name} cannot be had from the hub ({reason}){_advice(told)}")


def _advice(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; free some space, or set HF_HOME to a folder on another disk"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "; check HF_TOKEN"
    return "; start again later" if status == 429 or (status or 0) >= 500 else ""


def _words(error: Exception) -> str:
    """One line; the hub's errors append paragraphs of advice."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """A deadline for the whole question: the client's own timeout leaves name resolution out."""
    answer: list[Any] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            answer.append(ask())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="local-model-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return answer[0]
