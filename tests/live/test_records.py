"""What requests leave behind: the newest documents, and a file of JSON lines if asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fleet_harness import fleet

from diptych.live.door.records import Records


def test_the_newest_are_kept() -> None:
    records = Records(None, records_max=2)
    for name in ("a", "b", "a", "c"):
        records.add({"id": name})
    assert records.get("b") is None
    assert records.get("a") == {"id": "a"}
    assert records.get("c") == {"id": "c"}


def test_each_is_a_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": "before"}\n')
    records = Records(str(path), records_max=1)
    records.add({"id": "a"})
    records.add({"id": "b"})
    records.close()
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["before", "a", "b"]


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such"):
        Records(str(tmp_path / "no such folder" / "records"))


def test_a_full_disk_ends_the_file_and_not_the_door() -> None:
    records = Records("/dev/full")
    records.add({"id": "a"})
    records.add({"id": "b"})
    assert records.get("b") == {"id": "b"}


def test_records_of_a_fleet_hold_no_text_and_no_tokens(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with fleet("--scripted", "--pool-mib", "1", "--records", str(path)) as running:
        stream = running.stream(prompt="a secret of mine", max_tokens=40).result()
        trace = running.trace(stream.request_id)
        refused = running.stream(prompt="x", max_tokens=9000).result()
        assert refused.error[0] == 400
    (record,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert record == trace
    text = path.read_text()
    assert "secret" not in text
    assert stream.texts[0][:10] not in text
    assert str(list(b"a secret")[:3])[1:-1] not in text
