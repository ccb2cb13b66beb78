"""Fetches the console's libraries, and those of its tests, from the npm registry: python infra/vendor.py

Reads vendor.json of each folder: for each library its name, version, the package's integrity as npm publishes it, its
licence, and the files to take. Writes the files and their SHA-256 beside them. `npm` must be there.
"""

import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("apps/api/src/console/vendor", "apps/tests/support/axe")


def main() -> int:
    """Fetch every library of the lists; 1 where a package is not what its list says."""
    return max([fetch(ROOT / folder) for folder in FOLDERS])


def fetch(folder: Path) -> int:
    """Fetch the libraries of one folder's list; 1 where a package is not what the list says."""
    listed = folder / "vendor.json"
    libraries = json.loads(listed.read_text())
    for library in libraries:
        package = f"{library['name']}@{library['version']}"
        data = fetched(package)
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        if library.setdefault("integrity", integrity) != integrity:
            print(f"{package} is not the package of the list: {integrity}", file=sys.stderr)
            return 1
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for target, file in library["files"].items():
                member = archive.extractfile(f"package/{file['path']}")
                if member is None:
                    print(f"{package} has no {file['path']}", file=sys.stderr)
                    return 1
                # the map of the source is not kept, so a browser must not ask for it
                lines = [line for line in member.read().splitlines() if not line.startswith(b"//# sourceMappingURL")]
                content = b"\n".join(lines) + b"\n"
                file["sha256"] = hashlib.sha256(content).hexdigest()
                (folder / target).write_bytes(content)
    listed.write_text(json.dumps(libraries, indent=2) + "\n")
    return 0


def fetched(package: str) -> bytes:
    """The bytes of a package."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", package, "--silent", "--pack-destination", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - names of the list
        return next(Path(folder).glob("*.tgz")).read_bytes()


if __name__ == "__main__":
    sys.exit(main())
