"""What goes into each image, in megabytes: `python infra/image_sizes.py`.

Sums the installed files of the packages in each lock, as this environment has them and `infra/slim.py` leaves them,
this repository's code, and the packed weights of the packaged model. Neither the base image nor Debian's packages.
"""

import re
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

import slim  # type: ignore[import-not-found]  # its folder is the first where a script looks

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==", re.MULTILINE)
LARGEST = 7
MEGABYTE = 1_000_000
PACKED = "packed weights"


class Installed:
    """The packages of this environment."""

    def __init__(self) -> None:
        packages = Path(sysconfig.get_path("platlib"))
        self._unused = tuple(f"{path}/" if path.is_dir() else str(path) for path in slim.unused(packages))
        self._bytecode = slim.used_bytecode()

    def sizes(self, lock: Path) -> dict[str, int]:
        """Bytes of each package of a lock file. Packages that are not installed here are left out and told."""
        sizes: dict[str, int] = {}
        for name in NAME.findall(lock.read_text(encoding="utf-8")):
            try:
                files = metadata.files(name) or []
            except metadata.PackageNotFoundError:
                print(f"{name} of {lock.name} is not installed here", file=sys.stderr)
                continue
            paths = {Path(str(file.locate())) for file in files}
            sizes[name] = sum(_size(path) for path in paths if path.is_file() and self._stays(str(path)))
        return sizes

    def _stays(self, path: str) -> bool:
        return not path.startswith(self._unused) and (not path.endswith(".pyc") or path in self._bytecode)


def _size(path: Path) -> int:
    library = slim.read_library(path) if ".so" in path.name else None
    if library is None or not library.symbols:
        return path.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder, path.name)
        return (stripped if slim.write_stripped(path, library, stripped) else path).stat().st_size


def code_size() -> int:
    return sum(
        path.stat().st_size for path in (ROOT / "apps").rglob("*") if path.suffix in (".py", ".js", ".cpp", ".h")
    )


def packed_size() -> int:
    """The packaged model's, in 4 bits, as its first start or set-up has left them in the cache."""
    found = sorted((ROOT / ".cache" / "packed").glob("SmolLM2-135M-Instruct-*-int4-*.safetensors"))
    return found[0].stat().st_size if found else 0


def main() -> None:
    installed = Installed()
    base = installed.sizes(ROOT / "requirements.lock")
    kernels = base | installed.sizes(ROOT / "requirements-kernels.lock") | {PACKED: packed_size()}
    # torch is installed by itself, from an index of CPU builds
    whole = (
        kernels | installed.sizes(ROOT / "requirements-local.lock") | installed.sizes(ROOT / "requirements-local.txt")
    )
    code = code_size()
    for title, sizes in (("cloud (LOCAL=false)", base), ("LOCAL=kernels", kernels), ("whole (LOCAL=true)", whole)):
        total = (sum(sizes.values()) + code) / MEGABYTE
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:LARGEST]
        shown = ", ".join(f"{name} {sizes[name] / MEGABYTE:.0f}" for name in largest)
        print(f"{title}: {total:.0f} MB ({shown})")


if __name__ == "__main__":
    main()
