"""The bill of materials: every package that a lock names, with its hashes and a licence where it is known."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\\\]+)", re.MULTILINE)


def test_every_pinned_package_is_in_the_bill_and_in_the_list_of_licences(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "infra" / "sbom.py", "--folder", tmp_path], check=True, capture_output=True)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {(one["name"], one["version"]): one for one in bill["components"]}
    for lock in ("requirements.lock", "requirements-local.lock"):
        for pin in PIN.findall((ROOT / lock).read_text()):
            assert found[pin]["hashes"], pin
    assert {"torch", "preact", "fastapi"} <= {name for name, _ in found}
    assert all(one["purl"].startswith(("pkg:pypi/", "pkg:npm/")) for one in bill["components"])
    rows = list(csv.DictReader((tmp_path / "licences.tsv").read_text().splitlines(), delimiter="\t"))
    assert {(row["package"], row["version"]) for row in rows} == set(found)
    assert sum(row["licence"] == "not installed here" for row in rows) < len(rows) / 4
