"""Installs packages by uv, from where pip is configured to take them.

uv reads nothing of what pip is configured with, so that it is translated here. Where something has no translation, or
uv cannot be had, pip installs, slower, and that is said. The standard library is all that is imported.
"""

import ast
import json
import os
import re
import ssl
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-installer.lock"
# pip reads its settings in this order; the later one holds
SECTIONS = ("global", "install", ":env:")
OFF = ("0", "false", "f", "no", "n", "off")
# of pip's settings, those that uv goes without: they change neither where packages come from nor what is demanded of
# them, as every version is pinned and set-up says itself what it installs with its dependencies
OF_PIP_ALONE = frozenset(
    (
        "cache-dir", "check-build-dependencies", "compile", "config-file", "debug", "disable-pip-version-check",
        "exists-action", "isolated", "log", "no-clean", "no-color", "no-compile", "no-deps", "no-input",
        "no-python-version-warning", "no-warn-conflicts", "no-warn-script-location", "prefer-binary", "progress-bar",
        "quiet", "require-virtualenv", "resume-retries", "root-user-action", "upgrade",
        "upgrade-strategy", "use-deprecated", "use-feature", "verbose",
    )
)  # fmt: skip
# of uv's own settings, those that say where it keeps files; pip's say where packages come from
OF_UV = ("UV_CACHE_DIR", "UV_LINK_MODE")
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class Installer(Protocol):
    def install(self, *arguments: str, index: str = "") -> int:
        """Install what ``arguments`` of `pip install` name, from ``index`` in place of the usual one; an exit code."""
        ...


class Pip:
    def install(self, *arguments: str, index: str = "") -> int:
        from_index = ("--index-url", index) if index else ()
        return _run([sys.executable, "-m", "pip", "install", *from_index, *arguments])


class Untranslated(Exception):
    """pip is configured with something that uv has no word for."""


@dataclass(frozen=True, slots=True)
class Translation:
    """uv's settings: ``top`` and ``pip`` of its uv.toml, files of constraints, and variables of the environment."""

    top: Mapping[str, object] = field(default_factory=dict)
    pip: Mapping[str, object] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Uv:
    """Installs by the uv at ``binary``. What it cannot install is left to pip, with a word."""

    def __init__(self, binary: Path, settings: Translation, folder: Path) -> None:
        self._binary = binary
        self._settings = settings
        self._folder = folder

    def install(self, *arguments: str, index: str = "") -> int:
        code = _run(self.command(arguments, index), {**without_uv(os.environ), **self._settings.environment})
        if code == 0:
            return 0
        say(f"uv could not install that (exit code {code}, see above): pip tries")
        return Pip().install(*arguments, index=index)

    def command(self, arguments: Iterable[str], index: str) -> list[str]:
        """The settings are in a file of this user's, since an index's address may hold a password."""
        settings = self._settings
        own = {**settings.pip, **({"index-url": index, "no-index": False} if index else {})}
        file = self._folder / f"uv-{len(list(self._folder.iterdir()))}.toml"
        file.touch(0o600)
        file.write_text(toml(settings.top, own), encoding="utf-8")
        command = [str(self._binary), "--config-file", str(file), "pip", "install", "--python", sys.executable]
        for constraint in settings.constraints:
            command += ["--constraint", constraint]
        # uv demands hashes of constraints as well; without the demand it checks each hash that a lock has, too, and a
        # lock has one for each of its lines
        demanded = "--require-hashes"
        return command + [one for one in arguments if not (settings.constraints and one == demanded)]


def toml(top: Mapping[str, object], pip: Mapping[str, object]) -> str:
    """A uv.toml. JSON's texts, lists and booleans are TOML's."""
    return "\n".join(
        [
            *(f"{name} = {json.dumps(value)}" for name, value in top.items()),
            "[pip]",
            *(f"{name} = {json.dumps(value)}" for name, value in pip.items()),
            "",
        ]
    )


@contextmanager
def installer(prefix: str = sys.prefix) -> Iterator[Installer]:
    """What installs here: uv where it can be had and knows what pip is configured with, else pip.

    uv is put into ``prefix``, beside the packages, for as long as it installs: from there it can link files.
    """
    if os.environ.get("INSTALLER", "uv") == "pip":
        say("INSTALLER=pip: pip installs")
        yield Pip()
        return
    try:
        settings = translated(pip_settings(), os.environ)
    except Untranslated as error:
        say(f"pip is configured with {error}, which uv does not know: pip installs, slower")
        yield Pip()
        return
    if not os.access(sysconfig.get_path("purelib"), os.W_OK):
        say("the packages of this Python are not this user's: pip installs, which has a place for that")
        yield Pip()
        return
    try:
        beside = tempfile.TemporaryDirectory(prefix=".uv-", dir=prefix)
    except OSError as error:
        say(f"nothing can be written into {prefix} ({error.strerror}): pip installs, slower")
        yield Pip()
        return
    with beside as folder:
        binary = _present() or _fetched(Path(folder, "package"))
        if binary is None:
            say("uv cannot be had here (see above): pip installs, slower")
            yield Pip()
        else:
            files = Path(folder, "settings")
            files.mkdir()
            yield Uv(binary, settings, files)


def _present() -> Path | None:
    """The uv of the right version that this Python has."""
    wanted = re.search(r"^uv==([\w.]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    try:
        if wanted is None or metadata.version("uv") != wanted[1]:
            return None
    except metadata.PackageNotFoundError:
        return None
    return _binary_in(Path(sysconfig.get_path("scripts")))


def _fetched(folder: Path) -> Path | None:
    """uv, put into ``folder``: no installation and no image keeps its 60 MB."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--only-binary", ":all:", "--no-deps"]
    command += ["--require-hashes", "--target", str(folder), "-r", str(LOCK)]
    return None if _run(command) else _binary_in(folder / "bin")


def _binary_in(scripts: Path) -> Path | None:
    return next((file for name in ("uv", "uv.exe") if (file := scripts / name).is_file()), None)


def pip_settings() -> dict[str, str]:
    """What files and the environment configure `pip install` with. Empty settings say nothing."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Untranslated("files that cannot be read")
    return settings_in(done.stdout, _in_force)


def _in_force(key: str) -> str:
    """The value of a setting that pip itself goes by. Raises Untranslated."""
    command = [sys.executable, "-m", "pip", "config", "get", key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pip's own name of it
    if done.returncode:
        raise Untranslated(f"several values of {key}")
    return done.stdout.rstrip("\r\n")


def settings_in(listed: str, in_force: Callable[[str], str]) -> dict[str, str]:
    """The settings in the output of `pip config list`. pip 26.3 lists file by file, what is overridden too.

    ``in_force`` tells which of several values holds.
    """
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed.splitlines():
        key, _, written = line.strip().partition("=")
        section, _, name = key.rpartition(".")
        if section not in found:
            continue
        name, value = name.replace("_", "-"), str(ast.literal_eval(written))
        if found[section].setdefault(name, value) != value:
            found[section][name] = in_force(f"{section}.{name}")
    return {name: value for section in SECTIONS for name, value in found[section].items() if value.strip()}


def translated(settings: Mapping[str, str], environment: Mapping[str, str]) -> Translation:
    """uv's settings for pip's. Raises Untranslated, with the name of the setting."""
    # of several indices pip takes the best version that any of them has; all hashes are known beforehand
    own: dict[str, object] = {"index-strategy": "unsafe-best-match"}
    top: dict[str, object] = {}
    variables: dict[str, str] = {}
    constraints: tuple[str, ...] = ()
    certificates = next((environment[name] for name in BUNDLES if environment.get(name)), "")
    for name, value in settings.items():
        match name:
            case "index-url" | "pypi-url":
                own["index-url"] = value
            case "extra-index-url":
                own["extra-index-url"] = value.split()
            case "find-links":
                own["find-links"] = [*_places(value.split())]
            case "no-index":
                own["no-index"] = value.lower() not in OFF
            case "trusted-host":
                top["allow-insecure-host"] = value.split()
            case "constraint":
                constraints = tuple(value.split())
            case "cert":
                certificates = value
            case "client-cert":
                variables["SSL_CLIENT_CERT"] = value
            case "proxy":
                address = value if "://" in value else f"http://{value}"
                variables |= {"HTTP_PROXY": address, "HTTPS_PROXY": address, "ALL_PROXY": address}
            case "timeout" | "default-timeout":
                variables["UV_HTTP_TIMEOUT"] = str(max(1, round(_number(name, value))))
            case "retries":
                variables["UV_HTTP_RETRIES"] = str(round(_number(name, value)))
            case "no-cache-dir":
                top["no-cache"] = True
            case "keyring-provider" if value in ("auto", "disabled"):
                pass
            case _ if name not in OF_PIP_ALONE and value.lower() not in OFF:
                raise Untranslated(name)
    if certificates:
        variables["SSL_CERT_DIR" if Path(certificates).is_dir() else "SSL_CERT_FILE"] = certificates
    elif _system_has_certificates():
        top["system-certs"] = True
    return Translation(top, own, constraints, variables)


def _places(links: Iterable[str]) -> Iterator[str]:
    """pip's places of packages; like pip, without folders that are not there. Raises Untranslated for a local page."""
    for link in links:
        if "://" in link:
            yield link
        elif (folder := Path(link).expanduser().resolve()).is_dir():
            yield str(folder)
        elif folder.exists():
            raise Untranslated("find-links of a local page")
        else:
            say(f"there is no folder {link}, which pip is configured to find packages in")


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise Untranslated(f"{name}={value}") from None


def _system_has_certificates() -> bool:
    """Whether the system knows authorities; without them uv's own list has to do."""
    if sys.platform != "linux":
        return True
    paths = ssl.get_default_verify_paths()
    return paths.cafile is not None or (paths.capath is not None and any(Path(paths.capath).iterdir()))


def without_uv(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings of uv's that would say what it installs, and from where."""
    return {name: value for name, value in environment.items() if not name.startswith("UV_") or name in OF_UV}


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> int:
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own arguments


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)
