"""migrate.evacuated: what is written is read again, and nothing else is believed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import NoSpace
from migrate.evacuated import Record, Records

RECORD = Record("web", "b", 1.5, sure=True, new_id="abc", project="p", after=("db",), size=7)


def test_records_come_back(tmp_path: Path) -> None:
    records = Records(tmp_path / "new" / "folder")
    assert records.all() == []
    other = Record("app.1_x-y", "root@c:2222", 2.0)
    records.write(RECORD)
    records.write(other)
    assert records.all() == [other, RECORD]
    assert (tmp_path / "new/folder").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "new/folder").glob(".*")] == []


def test_a_later_one_replaces_it_and_it_can_be_dropped_twice(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write(Record("web", "b", 1.0))
    records.write(RECORD)
    assert records.all() == [RECORD]
    records.drop("web")
    records.drop("web")
    assert records.all() == []


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write(RECORD)
    (tmp_path / "half.json").write_text('{"name": "half"')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    (tmp_path / "other.json").write_text((tmp_path / "web.json").read_text())  # not its own name
    assert records.all() == [RECORD]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "", ".", "..", "a/b", "-x", "a b", "ä", "a\n", "x\u0000"]
)
def test_a_record_of_a_nonsense_name_is_said_and_not_heeded(tmp_path: Path, name: str) -> None:
    records = Records(tmp_path)
    records.write(RECORD)
    (tmp_path / "evil.json").write_bytes(msgspec.json.encode(Record(name, "b", 1.0)))
    (tmp_path / "dir.json").mkdir()
    found, broken = records.read()
    assert found == records.all() == [RECORD]
    assert [line.partition(" ")[0] for line in broken] == [
        str(tmp_path / "dir.json"), str(tmp_path / "evil.json"),
    ]  # fmt: skip
    assert "\n" not in broken[1]


@given(st.text(max_size=20))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    records = Records(Path("/nonexistent"))
    try:
        path = records._path(name)
    except ValueError:
        return
    assert path.parent == Path("/nonexistent")
    assert path.name == f"{name}.json"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpace, match="record of `web`"):
        Records(tmp_path / "file").write(RECORD)


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path)
    records.write(RECORD)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoSpace):
        records.write(Record("web", "c", 3.0))
    assert records.all() == [RECORD]
    assert [path.name for path in tmp_path.iterdir()] == ["web.json"]
