import json
from pathlib import Path

import pytest

from jaxgen.errors import JaxgenError
from jaxgen.files import append_line, read_json, truncate_after, write_json


def test_json_round_trip_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"a": [1, 2.5, None, "ü"]})
    write_json(path, {"a": "again"})
    assert read_json(path) == {"a": "again"}
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(JaxgenError, match=r"could not write .*config.json: No space left on device$"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_values_that_are_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JaxgenError, match=r"config.json: .*not JSON serializable"):
        write_json(tmp_path / "config.json", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(JaxgenError, match=r"could not write .*: Not a directory"):
        write_json(tmp_path / "run" / "config.json", {})


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(JaxgenError, match=r"config.json is damaged") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_missing_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(JaxgenError, match=r"there is no .*config.json"):
        read_json(tmp_path / "config.json")


def test_appended_lines_are_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        append_line(file, {"step": 1, "loss": 0.5})
        append_line(file, {"step": 2, "loss": 0.25})
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_append_to_a_full_disk() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    message = "could not write /dev/full: No space left on device"
    with pytest.raises(JaxgenError, match=message), full.open("w") as file:
        append_line(file, {"step": 1})


@pytest.mark.parametrize("torn", [b"", b'{"step": 3, "lo', b'{"step": 1}', b"\0\0\0\n"])
def test_truncation_drops_later_steps_and_a_torn_last_line(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = b'{"event": "start"}\n{"step": 1}\n{"step": 2}\n'
    path.write_bytes(kept + b'{"step": 3}\n{"step": 4}\n' + torn)
    truncate_after(path, 2)
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]


def test_truncation_leaves_a_good_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    before = path.stat().st_ino
    truncate_after(path, 1)
    assert path.stat().st_ino == before


def test_truncation_of_a_missing_file_does_nothing(tmp_path: Path) -> None:
    truncate_after(tmp_path / "metrics.jsonl", 1)
    assert not list(tmp_path.iterdir())


def test_damage_before_the_last_line_is_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(JaxgenError, match=r"metrics.jsonl is damaged: line 2"):
        truncate_after(path, 1)
