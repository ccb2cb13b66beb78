"""The page at `/`, its files and its policy; `/v1/me` and `/v1/summary`, which it needed first."""

import hashlib
import json
import re
from pathlib import Path

import httpx2
import pytest

from apps.api.src.console.routes import content_security_policy
from apps.tests.support.keys import make_keys
from apps.tests.support.serving import serving_models, settings

ROOT = Path(__file__).parents[4]
VENDOR = ROOT / "apps/api/src/console/vendor"
TESTED_WITH = ROOT / "apps/tests/support/axe"
LIBRARIES = [
    (folder, one) for folder in (VENDOR, TESTED_WITH) for one in json.loads((folder / "vendor.json").read_text())
]
HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
POLICY = {
    "default-src": "'none'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "dompurify",
}
FREE = {"MIT", "Apache-2.0", "(MPL-2.0 OR Apache-2.0)"}
NOT_SHIPPED = FREE | {"MPL-2.0"}


def test_a_browser_gets_a_page_and_a_program_gets_json() -> None:
    with serving_models() as url:
        page = httpx2.get(f"{url}/", headers=HTML, timeout=90)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        directives = dict(part.split(" ", 1) for part in policy.split("; "))
        assert re.fullmatch(r"'self' 'sha256-[\w+/]{43}='", directives.pop("script-src"))
        assert directives == POLICY
        program = httpx2.get(f"{url}/", timeout=90)
        assert set(program.json()) == {"name", "version", "docs", "openapi", "ready"}
        assert program.headers["vary"] == "Accept"
        for link in ("docs", "openapi", "ready"):
            assert httpx2.get(url + program.json()[link], timeout=90).status_code == 200


def test_the_console_can_be_off() -> None:
    with serving_models(console="off") as url:
        assert "application/json" in httpx2.get(f"{url}/", headers=HTML, timeout=90).headers["content-type"]
        assert httpx2.get(f"{url}/console/static/app.js", timeout=90).status_code == 404


def test_each_file_that_the_page_names_is_there_and_no_other_path_leads_out() -> None:
    with serving_models() as url:
        page = httpx2.get(f"{url}/", headers=HTML, timeout=90).text
        named = [part.partition('"')[0] for part in page.split('"/console/')[1:]]
        assert len(named) > 20
        for name in named:
            assert httpx2.get(f"{url}/console/{name}", timeout=90).status_code == 200, name
        for name in ("static/../page.py", "static/%2e%2e%2fpage.py", "page.py", "vendor/vendor.js", "static/"):
            assert httpx2.get(f"{url}/console/{name}", timeout=90).status_code in (404, 405), name


def test_each_module_is_loaded_ahead() -> None:
    """A browser that hears of a module only when another one imports it waits once more for each step."""
    console = VENDOR.parent
    html = (console / "static" / "index.html").read_text()
    modules = {f"{path.parent.name}/{path.name}" for path in console.glob("*/*.js")}
    ahead = {part.partition('"')[0] for part in html.split('rel="modulepreload" href="/console/')[1:]}
    assert ahead == modules


def test_the_policy_allows_the_inline_import_map_by_its_hash_and_no_other_script() -> None:
    html = '<script type="importmap">{"imports":{}}</script>'
    digest = content_security_policy(html).partition("'sha256-")[2].partition("'")[0]
    assert len(digest) == 44
    assert content_security_policy(html) != content_security_policy(html.replace("{}", '{"a":"b"}'))


@pytest.mark.parametrize(("folder", "library"), LIBRARIES, ids=lambda one: one["name"] if isinstance(one, dict) else "")
def test_a_vendored_file_is_what_its_package_held(folder: Path, library: dict[str, object]) -> None:
    files = library["files"]
    assert isinstance(files, dict)
    assert str(library["integrity"]).startswith("sha512-")
    assert library["license"] in (FREE if folder == VENDOR else NOT_SHIPPED)
    for name, file in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == file["sha256"], name


@pytest.mark.parametrize("folder", [VENDOR, TESTED_WITH], ids=["shipped", "tests"])
def test_no_file_is_vendored_without_a_word(folder: Path) -> None:
    listed = {name for library in json.loads((folder / "vendor.json").read_text()) for name in library["files"]}
    assert {path.name for path in folder.iterdir()} == listed | {"vendor.json"}


def test_me_says_what_a_key_may_do_and_what_is_left() -> None:
    with serving_models() as url:
        me = httpx2.get(f"{url}/v1/me", timeout=90).json()
        assert (me["authenticated"], me["tenant"], me["budget"]) == (False, "anonymous", None)


def test_me_of_a_key_with_a_budget(tmp_path: Path) -> None:
    configured = settings(data_dir=tmp_path, auth="on")
    key, bare = make_keys(configured, {"budget_usd": "5/month", "models": ["local"], "rpm": 60}, {"admin": True})
    with serving_models(data_dir=tmp_path, auth="on", secret_key=configured.secret_key) as url:
        headers = {"Authorization": f"Bearer {key}"}
        me = httpx2.get(f"{url}/v1/me", headers=headers, timeout=90).json()
        assert (me["authenticated"], me["admin"], me["models"], me["rpm"]) == (True, False, ["local"], 60)
        assert me["budget"] == {"limit_usd": 5.0, "period": "month", "spent_usd": 0, "reserved_usd": 0, "left_usd": 5.0}
        assert (
            httpx2.get(f"{url}/v1/me", headers={"Authorization": f"Bearer {bare}"}, timeout=90).json()["admin"] is True
        )
        assert httpx2.get(f"{url}/v1/me", timeout=90).status_code == 401
        assert httpx2.get(f"{url}/", headers=HTML, timeout=90).status_code == 200


def test_the_summary_has_counters_and_no_buckets() -> None:
    with serving_models() as url:
        httpx2.post(f"{url}/local/generate", json={"prompt": "hi"}, timeout=90)
        values = httpx2.get(f"{url}/v1/summary", timeout=90).json()["values"]
        assert sum(one["value"] for one in values["genai_http_requests_total"]) >= 1
        assert not [name for name in values if name.endswith(("_bucket", "_created"))]
