"""Settings: what `.env.example` says is what there is, and a wrong value is one clear line."""

import re
from contextlib import chdir
from pathlib import Path

import pytest

from apps.core.settings import Settings, SettingsError, load_settings

EXAMPLE = Path(__file__).parents[3] / ".env.example"
NAME = re.compile(r"^(?:# )?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def test_env_example_documents_exactly_the_settings() -> None:
    documented = [name for name, _ in NAME.findall(EXAMPLE.read_text())]
    assert sorted(documented) == sorted(name.upper() for name in Settings.model_fields)


def test_env_example_has_the_defaults_but_for_two_where_it_says_them() -> None:
    loaded, default = Settings(_env_file=EXAMPLE).model_dump(), Settings(_env_file=None).model_dump()
    other = {name: (value, default[name]) for name, value in loaded.items() if value != default[name]}
    assert other == {"default_temperature": (0.7, 0.0), "default_max_tokens": (1000, 500)}
    assert "(without these two lines: 0.0 and 500)" in EXAMPLE.read_text()


def test_the_env_file_of_the_working_folder_counts(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEFAULT_MAX_TOKENS=7\nOF_SOMETHING_ELSE=1\nAPI_PORT=\n")
    with chdir(tmp_path):
        loaded = load_settings()
    assert (loaded.default_max_tokens, loaded.api_port) == (7, 8000)


def test_what_is_kept_lies_in_the_folders_that_the_example_names() -> None:
    settings, example = Settings(_env_file=None), EXAMPLE.read_text()
    for folder in (settings.model_cache_dir, settings.data_dir):
        assert f"(default: {folder.relative_to(Path.home())} in the home folder)" in example


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_PORT", "banana"),
        ("API_PORT", "70000"),
        ("READ_TIMEOUT", "0"),
        ("READ_TIMEOUT", "nan"),
        ("RETRY_BACKOFF", "nan"),
        ("RAG_CHUNK_OVERLAP", "inf"),
        ("SHUTDOWN_GRACE", "inf"),
        ("RATE_LIMIT_LOCAL", "20 a minute"),
        ("RATE_LIMIT_STORAGE", "mysql://x"),
        ("OPENAI_BASE_URL", "example.com"),
        ("OPENAI_BASE_URL", "ftp://example.com"),
        ("OPENAI_BASE_URL", "http://"),
        ("OPENAI_BASE_URL", "http://host:banana/v1"),
        ("OPENAI_BASE_URL", "http://host:70000/v1"),
        ("OPENAI_BASE_URL", "http://[::1/v1"),
        ("OPENAI_BASE_URL", "http://a b/v1"),
        ("OPENAI_API_KEY", "sk-\u2028a"),
        ("OPENAI_API_KEY", "sk-a\nb"),
        ("ALLOWED_ORIGINS", "https://a.example/path"),
        ("ENV", "staging"),
        ("LOCAL_PRECISION", "int3"),
        ("LOCAL_URL", "list+ftp://head:8642/replicas"),
        ("LOCAL_URL", "dns://models"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^Wrong setting {name}: [^\n]+$"):
        load_settings()


def test_the_error_does_not_repeat_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", "user-secret@example.com")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "secret" not in str(caught.value)


def test_empty_values_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_PORT", "")
    assert load_settings().api_port == 8000


def test_lists_are_separated_by_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://a.example, https://b.example")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1,10.1.0.0/16")
    loaded = load_settings()
    assert loaded.allowed_origins == ["https://a.example", "https://b.example"]
    assert loaded.forwarded_allow_ips == ["10.0.0.1", "10.1.0.0/16"]


@pytest.mark.parametrize(
    "url", ["http://localhost:11434/v1", "https://u:p@host/v1/", "http://[::1]:8000/v1", "http://a"]
)
def test_any_http_url_may_be_the_upstream(url: str) -> None:
    assert Settings(_env_file=None, openai_base_url=url).openai_base_url == url


def test_a_key_may_have_been_pasted_with_a_line_end() -> None:
    assert Settings(_env_file=None, openai_api_key="sk-a \n").openai_api_key.get_secret_value() == "sk-a"


@pytest.mark.parametrize("url", ["http://a:1/", "dns://models:8000", "list+http://head:8642/replicas"])
def test_the_local_model_may_be_at_one_address_or_at_all_of_a_name_or_a_list(url: str) -> None:
    assert Settings(_env_file=None, local_url=url).local_url == url.rstrip("/")
