"""Files that an operator writes: what is in them, and each fault in one line with the file's name and no value."""

from datetime import date
from pathlib import Path

import pytest
from pydantic import BaseModel, field_validator

from apps.core.config_file import parsed, read_config, validated, whole

FILE = Path("etc/agents.yaml")


class Entry(BaseModel):
    name: str
    size: int = 0

    @field_validator("size")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


class Config(BaseModel):
    entries: list[Entry] = []


def test_what_is_in_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: {b: [1, 2.5, é], c: 2026-11-28}\n", encoding="utf-8")
    assert read_config(file, LookupError) == {"a": {"b": [1, 2.5, "é"], "c": date(2026, 11, 28)}}


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LookupError) as missing:
        read_config(tmp_path / "none.yaml", LookupError)
    assert str(missing.value) == f"{tmp_path / 'none.yaml'}: No such file or directory"
    (tmp_path / "latin.yaml").write_bytes("é: 1".encode("latin-1"))
    with pytest.raises(LookupError) as latin:
        read_config(tmp_path / "latin.yaml", LookupError)
    assert str(latin.value) == f"{tmp_path / 'latin.yaml'}: not UTF-8"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: [", "not YAML at line 2"),
        ("a: 1\nb: 2\na: 3\n", "the same key twice at line 3"),
        ("x:\n  a: 1\n  a: 2\n", "the same key twice at line 3"),
        ("a: \x07", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("? [1, 2]\n: a\n", "not YAML at line 1"),
        ("x: 2026-99-99", "a value is not what it looks like (a date, a number or a tag)"),
    ],
)
def test_what_is_wrong_with_yaml_is_one_line_with_its_place(text: str, says: str) -> None:
    with pytest.raises(LookupError) as caught:
        parsed(text, FILE, LookupError)
    assert str(caught.value) == f"etc/agents.yaml: {says}"


def test_the_same_key_may_stand_in_two_mappings() -> None:
    assert parsed("a: {x: 1}\nb: {x: 2}\n", FILE, LookupError) == {"a": {"x": 1}, "b": {"x": 2}}


def test_all_faults_are_told_at_once_by_their_places_and_without_values() -> None:
    config, faults = validated({"entries": [{"name": "a", "size": 3}, {"size": "secret"}]}, Config)
    assert config is None
    assert faults == [
        "entries.0.size: must be even",
        "entries.1.name: Field required",
        "entries.1.size: Input should be a valid integer, unable to parse string as an integer",
    ]
    with pytest.raises(LookupError) as caught:
        whole(FILE, config, faults[:2], LookupError)
    assert str(caught.value).splitlines() == [f"etc/agents.yaml: {fault}" for fault in faults[:2]]


def test_a_fault_of_the_whole_is_the_files() -> None:
    _, faults = validated(["a"], Config)
    assert faults == ["file: Input should be a valid dictionary or instance of Config"]


def test_without_a_fault_the_config_is_there() -> None:
    config, faults = validated({"entries": [{"name": "a", "size": 2}]}, Config)
    assert config is not None
    assert faults == []
    assert whole(FILE, config, faults, LookupError).entries == [Entry(name="a", size=2)]
    with pytest.raises(LookupError, match=r"^etc/agents\.yaml: the default is not there$"):
        whole(FILE, config, ["the default is not there"], LookupError)
