"""Writes the bill of materials and the list of licences from the lock files and what is vendored.

    python infra/sbom.py [--dev]

`reports/sbom.json` is CycloneDX 1.6: every package with its version, its hashes where a lock has them, and its licence
as the installed package states it. `reports/licences.tsv` says the same in lines. ``--dev`` adds the tools of
development. A package that is not installed here (one of another system) has no licence in it.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-local.lock")
DEV_LOCKS = ("requirements-dev.lock",)
# in no lock: its build for the CPU comes from an index of its own
UNLOCKED = re.compile(r"^(torch)==(\S+)", re.MULTILINE)
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
CLASSIFIER = "License :: OSI Approved :: "
LONGEST_NAME = 60


@dataclass(slots=True)
class Package:
    name: str
    version: str
    kind: str = "pypi"
    licence: str = ""
    hashes: list[str] = field(default_factory=list)

    @property
    def url(self) -> PackageURL:
        namespace, _, name = self.name.rpartition("/")
        return PackageURL(self.kind, namespace or None, name, self.version)


def locked(text: str) -> Iterator[Package]:
    """The packages of a lock; one that has a version for each system is several."""
    package: Package | None = None
    for line in text.splitlines():
        if pin := PIN.match(line):
            package = Package(pin[1], pin[2], licence=licence_of(pin[1]))
            yield package
        if package is not None:
            package.hashes += HASH.findall(line)


def licence_of(name: str) -> str:
    """As the installed package states it, in the newest of its three ways; empty where it is not installed."""
    try:
        told = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    if "License-Expression" in told:
        return str(told["License-Expression"])
    classified = [line.removeprefix(CLASSIFIER) for line in told.get_all("Classifier", []) if CLASSIFIER in line]
    if classified:
        return " AND ".join(sorted(classified))
    # some put the whole text there
    stated = told["License"] if "License" in told else ""  # noqa: SIM401 - it has no get on Python 3.11
    return stated.strip().partition("\n")[0][:LONGEST_NAME]


def vendored(file: Path) -> Iterator[Package]:
    """The scripts of the console."""
    for entry in json.loads(file.read_text(encoding="utf-8")):
        digests = [told["sha256"] for told in entry["files"].values()]
        yield Package(entry["name"], entry["version"], "npm", entry["license"], digests)


def packages(dev: bool) -> list[Package]:
    """All of them, by kind and name."""
    found: dict[tuple[str, str, str], Package] = {}
    for lock in (*LOCKS, *(DEV_LOCKS if dev else ())):
        for package in locked((ROOT / lock).read_text(encoding="utf-8")):
            found[package.kind, package.name.lower(), package.version] = package
    for name, version in UNLOCKED.findall((ROOT / "requirements-local.txt").read_text(encoding="utf-8")):
        found["pypi", name, version] = Package(name, version, licence=licence_of(name))
    for file in (ROOT / "apps").rglob("vendor/vendor.json"):
        for package in vendored(file):
            found[package.kind, package.name, package.version] = package
    return [found[key] for key in sorted(found)]


def bill(found: list[Package]) -> str:
    """CycloneDX as JSON."""
    bom = Bom()
    root = bom.metadata.component = Component(name="genai-project", type=ComponentType.APPLICATION)
    components = [
        Component(
            name=package.name,
            version=package.version,
            type=ComponentType.LIBRARY,
            purl=package.url,
            bom_ref=str(package.url),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in package.hashes],
            licenses=[DisjunctiveLicense(name=package.licence)] if package.licence else [],
        )
        for package in found
    ]
    bom.components.update(components)
    bom.register_dependency(root, components)
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="the tools of development too")
    parser.add_argument("--folder", type=Path, default=ROOT / "reports", help="where to write (reports/)")
    given = parser.parse_args(arguments)
    found = packages(given.dev)
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "sbom.json").write_text(bill(found) + "\n", encoding="utf-8")
    with (given.folder / "licences.tsv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(("package", "version", "from", "licence"))
        rows.writerows((one.name, one.version, one.kind, one.licence or "not installed here") for one in found)
    unknown = sum(not one.licence for one in found)
    print(f"{len(found)} packages in reports/sbom.json and reports/licences.tsv; {unknown} without a licence here")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
