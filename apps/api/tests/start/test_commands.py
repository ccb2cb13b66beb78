"""make and build.ps1: the same commands in both, and words that help where Python is missing or too old."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import tree_sitter_powershell
import yaml
from tree_sitter import Language, Node, Parser

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "build.ps1"
SEEDS_COMMANDS = {"help", "dev-services", "dev-api", "smoke", "compose-up", "compose-down"}
COMMANDS = SEEDS_COMMANDS | {
    "setup",
    "run",
    "test",
    "test-long",
    "test-clients",
    "peer-suites",
    "bench-gateway",
    "bench-local",
    "attacks",
    "mutants",
    "bench-fleet",
    "soak",
    "eval-local",
    "eval-rag",
    "console-speed",
    "pictures",
    "lint",
    "lock",
    "sbom",
    "coverage",
    "clean",
}

TESTED = {"test", "test-long", "test-clients"}


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # MAKEFLAGS of an outer make, as in `make test`, would turn into options of this one
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=False)


def fake_python(folder: Path, *, version: str) -> Path:
    path = folder / "python-fake"
    path.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo "Python {version}"\nexit 1\n')
    path.chmod(0o755)
    return path


def powershell() -> Node:
    return Parser(Language(tree_sitter_powershell.language())).parse(SCRIPT.read_bytes()).root_node


def powershell_commands() -> dict[str, str]:
    """What each command of the switch in build.ps1 runs."""
    switch = SCRIPT.read_text().split("switch ($Command) {", 1)[1]
    return dict(re.findall(r"^    '([a-z-]+)' \{ (.*) \}$", switch, re.MULTILINE))


def modules_of(text: str) -> list[str]:
    """The modules that a recipe runs, in either language."""
    return [module for module in re.findall(r"-m'?,? '?([\w.]+)", text) if module not in ("pip", "venv", "uv")]


def test_help_lists_every_command_with_a_word_on_it() -> None:
    lines = make("help").stdout.splitlines()
    assert {line.split()[0] for line in lines} == COMMANDS
    assert all(len(line.split()) > 2 for line in lines)


def test_both_have_the_same_commands_and_the_same_help() -> None:
    listed = dict(re.findall(r"^    '([a-z-]+)'\s*= '(.*)'$", SCRIPT.read_text(), re.MULTILINE))
    in_make = dict(line.strip().split(maxsplit=1) for line in make("help").stdout.splitlines())
    assert {name: text.replace("''", "'") for name, text in listed.items()} == in_make
    assert powershell_commands().keys() == COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS - TESTED - {"help", "setup", "lint", "lock", "coverage", "clean"}))
def test_a_command_runs_the_same_in_both(name: str, tmp_path: Path) -> None:
    for stamp in (".setup", ".dev"):
        (tmp_path / stamp).touch()
    recipe = make("-n", "-o", str(tmp_path / ".setup"), "-o", str(tmp_path / ".dev"), f"VENV={tmp_path}", name).stdout
    script = powershell_commands()[name]
    assert modules_of(script) == modules_of(recipe)
    if "docker" in recipe:
        arguments = recipe.split("docker-compose.yml ")[1].split()
        assert re.findall(r"'([\w-]+)'", script.split("$Compose", 1)[1]) == arguments


def test_the_powershell_script_has_no_syntax_error() -> None:
    assert not powershell().has_error


def test_the_powershell_script_keeps_to_what_version_5_understands() -> None:
    assert SCRIPT.read_bytes().isascii()
    assert not re.search(r"&&|\|\||\?\?|\?\.", SCRIPT.read_text())


def test_windows_python_launcher_is_preferred_to_what_may_be_the_store_s_stub() -> None:
    search = SCRIPT.read_text().split("function Find-Python {", 1)[1].split("\n}", 1)[0]
    found = re.findall(r"env:PYTHON|'py', '-3'|'python'", search)
    assert found[:2] == ["env:PYTHON", "env:PYTHON"] and found[2:4] == ["'py', '-3'", "'python'"]


def test_an_old_python_is_refused_with_the_way_out(tmp_path: Path) -> None:
    old = fake_python(tmp_path, version="3.9.2")
    done = make("setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert "make PYTHON=" in done.stderr


@pytest.mark.parametrize(("newer", "uv", "code"), [("True", "false", 0), ("False", "false", 2), ("False", "true", 0)])
def test_aider_is_left_out_for_a_newer_python_alone(newer: str, uv: str, code: int, tmp_path: Path) -> None:
    for name, command in {"clients/bin/uv": uv, "aider/bin/python": f"echo {newer}"}.items():
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)
    (tmp_path / "clients" / ".done").touch()
    folders = [f"{name.upper()}={tmp_path / name}" for name in ("clients", "aider")]
    done = make(*folders, str(tmp_path / "aider" / ".done"))
    assert done.returncode == code, done.stderr
    assert ("left out" in done.stdout) is (newer == "True")
    assert (tmp_path / "aider" / ".done").exists() is (uv == "true")


def test_a_missing_python_is_said(tmp_path: Path) -> None:
    done = make("setup", f"PYTHON={tmp_path / 'nowhere'}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "install Python 3.11 or newer" in done.stderr


@pytest.mark.parametrize("file", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_requirements_are_pinned_to_exact_versions(file: str) -> None:
    lines = [line.split(";")[0] for line in (ROOT / file).read_text().splitlines() if line and line[0] != "#"]
    assert lines
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.+!]+\s*", line)]


def pins(text: str) -> dict[str, set[str]]:
    """The versions of each package; a package may have one for older and one for newer Pythons."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^(?:# no-deps: )?([\w.-]+)(?:\[[\w,-]+\])?==([\w.+!]+)", text, re.MULTILINE):
        found.setdefault(name.lower().replace("_", "-").replace(".", "-"), set()).add(version)
    return found


LOCKED = ["requirements", "requirements-local", "requirements-dev"]


@pytest.mark.parametrize("name", LOCKED)
def test_a_lock_holds_what_its_requirements_ask_for(name: str) -> None:
    locked = pins((ROOT / f"{name}.lock").read_text())
    asked = pins((ROOT / f"{name}.txt").read_text())
    asked.pop("torch", None)
    assert {package: locked.get(package) for package in asked} == asked


@pytest.mark.parametrize("name", LOCKED)
def test_every_line_of_a_lock_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / f"{name}.lock").read_text()
    entries = re.split(r"^(?=[\w])", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 10
    assert [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}$", entry, re.MULTILINE)] == []
    assert "://" not in text and "--index" not in text


def test_the_locks_agree_on_every_version() -> None:
    together: dict[str, set[frozenset[str]]] = {}
    for name in LOCKED:
        for package, versions in pins((ROOT / f"{name}.lock").read_text()).items():
            together.setdefault(package, set()).add(frozenset(versions))
    assert {package for package, versions in together.items() if len(versions) > 1} == set()


def test_no_command_of_the_readme_holds_an_address_that_is_made_up() -> None:
    """What a reader pastes must work as it stands."""
    commands = "\n".join(
        re.findall(r"^```(?:bash|powershell)$(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    )
    assert "make run" in commands
    assert not re.findall(r"git clone|github\.com|yourusername|<[a-z]", commands)


def test_a_commit_is_checked_as_make_lint_checks(tmp_path: Path) -> None:
    (tmp_path / ".setup").touch()
    (tmp_path / ".dev").touch()
    options = ("-n", "-o", str(tmp_path / ".setup"), "-o", str(tmp_path / ".dev"), f"VENV={tmp_path}")
    recipe = make(*options, "lint").stdout.replace(str(tmp_path), ".venv")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    assert [hook["entry"] for hook in config["repos"][0]["hooks"]] == recipe.splitlines()


def test_a_public_host_tests_every_python_that_is_promised() -> None:
    linux = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["linux"]
    versions = linux["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert "${{ matrix.python }}" in linux["container"]["image"]
    assert any(".ci/run" in step.get("run", "") for step in linux["steps"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]}"
    assert project["classifiers"] == [f"Programming Language :: Python :: {version}" for version in versions]


def test_the_ci_scripts_are_valid_and_can_be_run() -> None:
    scripts = [file for file in (ROOT / ".ci").iterdir() if not file.suffix]
    assert scripts
    for script in scripts:
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
        assert os.access(script, os.X_OK)


@pytest.mark.parametrize("name", sorted(TESTED))
def test_the_tests_run_with_the_same_options_in_both(name: str, tmp_path: Path) -> None:
    for stamp in (".setup", ".dev"):
        (tmp_path / stamp).touch()
    recipe = make("-n", "-o", str(tmp_path / ".setup"), "-o", str(tmp_path / ".dev"), f"VENV={tmp_path}", name).stdout
    (line,) = [line for line in recipe.splitlines() if "-m pytest" in line]
    (marks,) = re.findall(r"Invoke-Tests '([\w ]+)'", powershell_commands()[name])
    (options,) = re.findall(r"Invoke-Python @\(('-m', 'pytest', .*)\)", SCRIPT.read_text())
    given = [part.strip("' ") for part in options.replace("$Marks", marks).split(",")]
    assert given == shlex.split(line.partition(";")[0])[1:]


def test_the_ci_script_is_valid_and_runs_every_test() -> None:
    script = ROOT / ".ci/run"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)
    ran = [line.split()[1] for line in script.read_text().splitlines() if line.startswith("once_more ")]
    assert ran == ["test", "test-clients", "test-long"]
    assert "make test-long" in script.read_text()
