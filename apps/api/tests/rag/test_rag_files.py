"""What a command line takes in of a folder, and what it says of the rest."""

from pathlib import Path

from apps.cli.documents import KNOWN, find_files


def test_what_is_left_out_of_a_folder_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / ".git").mkdir()
    for name in ("a.md", "B.TXT", "song.mp3", "LICENSE", "deep/c.pdf", ".git/notes.md", ".hidden.md"):
        (tmp_path / "docs" / name).write_text("x")
    (tmp_path / "docs" / "loop").symlink_to(tmp_path / "docs")
    found = find_files([tmp_path / "docs"])
    assert [label for _, label in found.taken] == ["B.TXT", "a.md", "deep - c.pdf"]
    assert {path.name: reason for path, reason in found.skipped} == {
        ".git": "hidden",
        ".hidden.md": "hidden",
        "LICENSE": f"its name has no suffix that is known here ({KNOWN})",
        "loop": "a link to a folder",
        "song.mp3": f".mp3 is no suffix that is known here ({KNOWN})",
    }


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    """Its content says what it is, and an error what it is not."""
    file = tmp_path / "NOTES"
    file.write_text("x")
    assert find_files([file]).taken == [(file, "NOTES")]
    assert find_files([file]).skipped == []
