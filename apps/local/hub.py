"""A model's snapshot on the Hugging Face hub, or in its cache. Imports huggingface_hub: a folder does not need it.

The hub's own decision about a name is waited for by seconds, a download by its end.
"""

import errno
import logging
import ssl
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.tqdm import disable_progress_bars

from apps.local.checkpoint import (
    GIGABYTE,
    CheckpointError,
    DownloadProgress,
    HubUnreachable,
    Report,
    name_and_revision,
)

log = logging.getLogger(__name__)

# what a Llama-shaped checkpoint needs; never pickled weights (*.bin, *.pt), never code
WANTED = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"]
WANTED += ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja"]
# the one folder of a repository that is wanted; the patterns above are for its top
TEMPLATES = "additional_chat_templates/*.jinja"
HUB_TIMEOUT = 4.0


class HubModel:
    """Implements Snapshot, of a name, or of a name and its branch, tag or commit: ``someone/llama@v1``."""

    def __init__(self, name: str) -> None:
        self._name, self._revision = name_and_revision(name)

    def cached(self) -> Path | None:
        """The snapshot's folder in the Hugging Face cache, where it is whole. Raises CheckpointError."""
        name = self._name
        try:
            folder = snapshot_download(
                name, revision=self._revision, allow_patterns=WANTED, ignore_patterns=["*/*"], local_files_only=True
            )
        except HFValidationError as error:
            raise CheckpointError(f"LOCAL_MODEL={name} is neither a folder nor a valid hub name: {error}") from error
        except LocalEntryNotFoundError:
            return None
        # a tool may have cached a part of the checkpoint only, and a download may have been cut
        whole = (Path(folder) / "config.json").is_file() and any(Path(folder).glob("*.safetensors"))
        return Path(folder) if whole else None

    def fetched(self, report: Report) -> Path:
        """The snapshot's folder in the Hugging Face cache, downloaded where it is not there yet.

        Raises CheckpointError and HubUnreachable.
        """
        if (folder := self.cached()) is not None:
            return folder
        disable_progress_bars()
        if constants.HF_HUB_OFFLINE:
            raise HubUnreachable("HF_HUB_OFFLINE is set")
        return self._download(self._size(), report)

    def _size(self) -> int:
        """Bytes to fetch. The one request that decides, in seconds, whether the hub answers and has the model."""
        name = self._name
        try:
            info = _within(
                HUB_TIMEOUT,
                lambda: HfApi().model_info(name, revision=self._revision, timeout=HUB_TIMEOUT, files_metadata=True),
            )
        except GatedRepoError as error:
            raise CheckpointError(
                f"LOCAL_MODEL={name} is gated: accept its terms on the hub and set HF_TOKEN"
            ) from error
        except RepositoryNotFoundError as error:
            raise CheckpointError(f"LOCAL_MODEL={name} does not exist on the hub, or needs HF_TOKEN") from error
        except RevisionNotFoundError as error:
            raise CheckpointError(f"LOCAL_MODEL={name} has no revision {self._revision} on the hub") from error
        except Exception as error:
            raise _judged(error, name, "the hub was asked") from error
        files = [file for file in info.siblings or () if "/" not in file.rfilename]
        return sum(file.size or 0 for file in files if any(fnmatch(file.rfilename, wanted) for wanted in WANTED))

    def _download(self, size: int, report: Report) -> Path:
        """Fetch the snapshot; ``size`` in bytes, 0 where it is not known."""
        name = self._name
        log.info("Downloading %s from the hub (%.2f GB)", name, size / GIGABYTE)
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
        with DownloadProgress(name, folder, size, report):
            try:
                # first, as a snapshot that has its weights counts as whole
                found = snapshot_download(name, revision=self._revision, allow_patterns=[TEMPLATES])
                commit = Path(found).name
                return Path(snapshot_download(name, revision=commit, allow_patterns=WANTED, ignore_patterns=["*/*"]))
            except Exception as error:
                raise _judged(error, name, "the download broke off") from error


def _judged(error: Exception, name: str, what: str) -> CheckpointError | HubUnreachable:
    """Only a missing connection may pass by itself; all else an operator must hear of, so nothing falls back."""
    causes = [error]
    while isinstance(cause := causes[-1].__cause__, Exception):
        causes.append(cause)
    # the download wraps what went wrong in "not found locally"
    known = next((cause for cause in causes if not isinstance(cause, LocalEntryNotFoundError)), error)
    reason = f"{what}: {_words(known)}"
    http = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ProxyError)
    lost = isinstance(known, (ConnectionError, TimeoutError, *http))
    # a certificate that is refused is a NetworkError too
    if lost and not any(isinstance(cause.__context__, ssl.SSLError) for cause in causes):
        return HubUnreachable(reason)
    return CheckpointError(f"LOCAL_MODEL={name} cannot be had from the hub ({reason}){_advice(known)}")


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
