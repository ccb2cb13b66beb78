"""Which files of the paths on a command line are taken in, by which label, and which are left out and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apps.rag.parsing.kinds import BY_SUFFIX

KNOWN = ", ".join(sorted(BY_SUFFIX))


@dataclass(slots=True)
class Found:
    """``taken``: each file with its label; ``skipped``: what was left out, with the reason."""

    taken: list[tuple[Path, str]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def find_files(paths: Sequence[Path]) -> Found:
    """A file that is named is taken whatever it is called; of a folder, what has a known suffix and is not hidden."""
    found = Found()
    for path in paths:
        if path.is_dir():
            _look_into(path, path, found)
        else:
            found.taken.append((path, path.name))
    return found


def _look_into(top: Path, folder: Path, found: Found) -> None:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            found.skipped.append((path, "hidden"))
        elif path.is_dir():
            if path.is_symlink():
                found.skipped.append((path, "a link to a folder"))
            else:
                _look_into(top, path, found)
        elif not path.is_file():
            found.skipped.append((path, "not a file"))
        elif path.suffix.lower() in BY_SUFFIX:
            found.taken.append((path, " - ".join(path.relative_to(top).parts)))
        else:
            ending = f"{path.suffix} is no suffix" if path.suffix else "its name has no suffix"
            found.skipped.append((path, f"{ending} that is known here ({KNOWN})"))
