from __future__ import annotations

import importlib.machinery
import json
from pathlib import Path

import pytest

from diptych.cli import doctor, main


def test_doctor_knows_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in document["checks"]}
    assert code == (1 if any(check["state"] == "missing" for check in checks.values()) else 0)
    assert {
        "system",
        "processor",
        "native kernels",
        "page conversion",
        "core",
        "memory",
        "huge pages",
        "model",
        "compilers",
    } <= set(checks)
    assert "Linux" in checks["system"]["found"]
    assert "not_run_on_hardware" in document
    for check in checks.values():
        assert check["state"] == "ok" or check["remedy"], check


@pytest.mark.parametrize(
    ("origin", "state", "found"),
    [("machine.py", "note", "interpreted"), ("machine.cpython-311-x86_64-linux-gnu.so", "ok", "compiled")],
)
def test_doctor_says_how_the_core_runs(
    monkeypatch: pytest.MonkeyPatch, origin: str, state: str, found: str
) -> None:
    spec = importlib.machinery.ModuleSpec("machine", None, origin=origin)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    core = next(check for check in doctor.examine() if check.name == "core")
    assert core.state == state
    assert found in core.found


def test_doctor_for_people_ends_with_what_was_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    out = capsys.readouterr().out
    assert "Not run on hardware" in out
    assert "memfd" in out


def test_a_check_that_is_missing_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = doctor.Check(name="system", state="missing", found="Plan 9", remedy="use Linux")
    monkeypatch.setattr(doctor, "examine", lambda: [lacking])
    assert main(["doctor"]) == 1
    assert "use Linux" in capsys.readouterr().out


def test_models_lists_the_embedded_one_and_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diptych.models.embedded.cache_folder", lambda: tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.gguf").write_bytes(b"x" * 7)
    assert main(["models", "--json"]) == 0
    embedded, mine = json.loads(capsys.readouterr().out)["models"]
    assert embedded["present"] is False
    assert (mine["name"], mine["present"], mine["bytes"]) == ("mine", True, 7)
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert "diptych models fetch" in out
    assert "mine" in out


def test_fetch_of_a_file_that_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x")
    assert main(["models", "fetch", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "model", "path": str(path)}


def test_fetch_of_nothing_is_exit_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "fetch", "no-such-model.gguf"]) == 4
    assert "no-such-model.gguf" in capsys.readouterr().err
    assert main(["models", "fetch", "no-such-model.gguf", "--json"]) == 4
    assert "no-such-model.gguf" in json.loads(capsys.readouterr().out)["error"]
