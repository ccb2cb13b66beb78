"""What goes into an image, in megabytes: `python infra/image_sizes.py`.

Sums the installed files of the packages in each lock, as this environment has them, and this repository's own code.
The base image and Debian's packages are not in it.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==", re.MULTILINE)
LARGEST = 5
MEGABYTE = 1_000_000


def installed_sizes(lock: Path) -> dict[str, int]:
    """Bytes of each package of a lock file. Packages that are not installed here are left out and told."""
    sizes: dict[str, int] = {}
    for name in NAME.findall(lock.read_text(encoding="utf-8")):
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            print(f"{name} of {lock.name} is not installed here", file=sys.stderr)
            continue
        sizes[name] = sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    return sizes


def code_size() -> int:
    return sum(
        path.stat().st_size for path in (ROOT / "apps").rglob("*") if path.suffix in (".py", ".js", ".cpp", ".h")
    )


def main() -> None:
    base, local = (installed_sizes(ROOT / name) for name in ("requirements.lock", "requirements-local.lock"))
    # torch is installed by itself, from an index of CPU builds
    local |= installed_sizes(ROOT / "requirements-local.txt")
    code = code_size()
    for title, sizes in (("cloud (LOCAL=false)", base), ("whole (LOCAL=true)", base | local)):
        total = (sum(sizes.values()) + code) / MEGABYTE
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:LARGEST]
        shown = ", ".join(f"{name} {sizes[name] / MEGABYTE:.0f}" for name in largest)
        print(f"{title}: {total:.0f} MB ({shown})")


if __name__ == "__main__":
    main()
