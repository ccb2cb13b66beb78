"""Set-up takes packages from where pip is configured to, checks their hashes, and says where pip installs."""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[4]
INFRA = ROOT / "infra"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("infra_packages", INFRA / "packages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


packages = loaded()


def test_pip_s_settings_become_uv_s(tmp_path: Path) -> None:
    settings = {
        "index-url": "https://user:secret@index.example/simple",
        "extra-index-url": "https://more.example/simple\nfile:///srv/simple",
        "find-links": f"{tmp_path} https://wheels.example/",
        "trusted-host": "index.example",
        "constraint": "one.txt two.txt",
        "proxy": "proxy.example:3128",
        "default-timeout": "180",
        "retries": "2",
        "no-cache-dir": "1",
        "cert": "/etc/authorities.pem",
        "disable-pip-version-check": "1",
        "pre": "0",
    }
    found = packages.translated(settings, {"REQUESTS_CA_BUNDLE": "/not/this.pem"})
    assert found.pip == {
        "index-strategy": "unsafe-best-match",
        "index-url": "https://user:secret@index.example/simple",
        "extra-index-url": ["https://more.example/simple", "file:///srv/simple"],
        "find-links": [str(tmp_path), "https://wheels.example/"],
    }
    assert found.top == {"allow-insecure-host": ["index.example"], "no-cache": True}
    assert found.constraints == ("one.txt", "two.txt")
    proxy = "http://proxy.example:3128"
    assert found.environment == {
        "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy,
        "ALL_PROXY": proxy,
        "UV_HTTP_TIMEOUT": "180",
        "UV_HTTP_RETRIES": "2",
        "SSL_CERT_FILE": "/etc/authorities.pem",
    }


def test_certificates_are_taken_from_where_pip_s_requests_take_them() -> None:
    assert packages.translated({}, {"CURL_CA_BUNDLE": "/a.pem"}).environment == {"SSL_CERT_FILE": "/a.pem"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("only-binary", ":all:"),
        ("require-hashes", "1"),
        ("user", "true"),
        ("no-such-setting", "1"),
        ("timeout", "soon"),
        ("find-links", __file__),
    ],
)
def test_a_setting_that_uv_does_not_know_is_named(name: str, value: str) -> None:
    with pytest.raises(packages.Untranslated, match=name):
        packages.translated({name: value}, {})


def test_of_several_values_of_a_setting_the_one_that_pip_goes_by_is_taken() -> None:
    listed = """/etc/pip.conf:
  global.index-url='https://machine.example/simple'
  global.timeout='60'
/home/a/.config/pip/pip.conf:
  global.index_url='https://user.example/simple'
  global.timeout='60'
  install.no-compile='true'
"""
    asked: list[str] = []

    def in_force(key: str) -> str:
        asked.append(key)
        return "https://machine.example/simple"

    found = packages.settings_in(listed, in_force)
    assert found == {"index-url": "https://machine.example/simple", "timeout": "60", "no-compile": "true"}
    assert asked == ["global.index-url"]


def test_pip_installs_where_uv_has_no_place(tmp_path: Path) -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); from packages import installer\n"
    script += "with installer(sys.argv[2]) as found: print(type(found).__name__)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "INSTALLER"))}
    command = [sys.executable, "-c", script, str(INFRA), str(tmp_path / "missing")]
    environment = {**kept, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=True)
    said, found = done.stdout.splitlines()
    assert "nothing can be written into" in said and found == "Pip"


def test_a_folder_that_is_not_there_is_left_out_as_pip_does_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert packages.translated({"find-links": "/no/such/folder"}, {}).pip["find-links"] == []
    assert "there is no folder /no/such/folder" in capsys.readouterr().out


def test_no_password_stands_in_the_command(tmp_path: Path) -> None:
    settings = packages.translated({"index-url": "https://user:secret@index.example/simple"}, {})
    command = packages.Uv(Path("/bin/uv"), settings, tmp_path).command(["-r", "a.lock"], "https://other.example/")
    assert "secret" not in " ".join(command)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    # another index takes the place of the usual one
    assert 'index-url = "https://other.example/"' in file.read_text() and "secret" not in file.read_text()


def test_where_uv_takes_packages_from_is_not_its_own_setting() -> None:
    environment = {"UV_INDEX_URL": "https://elsewhere/", "UV_CACHE_DIR": "/cache", "PATH": "/bin"}
    assert packages.without_uv(environment) == {"UV_CACHE_DIR": "/cache", "PATH": "/bin"}


def wheel(folder: Path) -> str:
    """A package of one module; its hash."""
    made = folder / "tinypackage-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("tinypackage.py", "answer = 42\n")
        about = "tinypackage-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tinypackage\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(made.read_bytes()).hexdigest()


INSTALLING = """
import sys
sys.path.insert(0, sys.argv[1])
from packages import installer
with installer() as packages:
    sys.exit(packages.install("--no-deps", "--require-hashes", *sys.argv[2:]))
"""


def installing(folder: Path, lock: str, **settings: str) -> tuple[int, str]:
    """Exit code and output of the installation of a lock from ``folder`` alone into its folder "into"."""
    requirements = folder / "a.lock"
    requirements.write_text(lock)
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), **settings}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    command = [sys.executable, "-c", INSTALLING, str(INFRA), "--target", str(folder / "into"), "-r", str(requirements)]
    environment = {**kept, **own, "UV_CACHE_DIR": str(folder / "cache"), "HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.parametrize("constrained", [False, True])
def test_a_lock_is_installed_by_uv_and_another_file_than_it_names_is_not(tmp_path: Path, constrained: bool) -> None:
    digest = wheel(tmp_path)
    settings = {}
    if constrained:
        (tmp_path / "constraints.txt").write_text("tinypackage<2\n")
        settings["PIP_CONSTRAINT"] = str(tmp_path / "constraints.txt")
    code, output = installing(tmp_path, f"tinypackage==1.0 --hash=sha256:{'0' * 64}\n", **settings)
    assert code != 0 and "uv could not install that" in output and not (tmp_path / "into/tinypackage.py").exists(), (
        output
    )
    code, output = installing(tmp_path, f"tinypackage==1.0 --hash=sha256:{digest}\n", **settings)
    assert code == 0 and "setup:" not in output, output
    assert (tmp_path / "into/tinypackage.py").is_file()


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "says"),
    [({"PIP_ONLY_BINARY": ":all:"}, "only-binary, which uv does not know"), ({"INSTALLER": "pip"}, "INSTALLER=pip")],
)
def test_pip_installs_where_uv_would_do_something_else_and_says_so(
    tmp_path: Path, setting: dict[str, str], says: str
) -> None:
    code, output = installing(tmp_path, f"tinypackage==1.0 --hash=sha256:{wheel(tmp_path)}\n", **setting)
    assert code == 0 and says in output and "Successfully installed tinypackage-1.0" in output, output


LOCKS = sorted(ROOT.glob("requirements*.lock"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.name))
def test_each_line_of_a_lock_has_its_hashes(lock: Path) -> None:
    """Where pip is configured with constraints, uv checks the hashes that are there, and demands none."""
    pins = re.split(r"\n(?=\w)", lock.read_text().replace("\\\n", " "))[1:]
    assert pins and [pin for pin in pins if "--hash=sha256:" not in pin] == []


def test_set_up_and_development_have_the_same_uv() -> None:
    installer, development = (
        re.findall(r"^uv==\S+", (ROOT / f"requirements-{name}.lock").read_text(), re.MULTILINE)
        for name in ("installer", "dev")
    )
    assert installer == development != []
