"""From what a person types to a model."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diptych.models import embedded, resolve
from diptych.models.errors import ModelError, ModelNotFoundError


def test_gguf_path(tiny_gguf: Path, tiny: Any) -> None:
    loaded = resolve.load(tiny_gguf)
    assert loaded.model.name == "tiny"
    assert loaded.tokenizer.vocabulary == len(tiny.tokens)
    assert loaded.chat_template is not None
    text = loaded.chat_template.render([{"role": "user", "content": "hello"}])
    assert loaded.tokenizer.encode(text, special=True)[0] == loaded.tokenizer.bos


def test_text_alone_reads_no_tensor(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(resolve.GgufFile, "array", refuse)
    text = resolve.load_text(tiny_gguf)
    assert (text.name, text.config.layers) == ("tiny", 2)
    with pytest.raises(AssertionError, match="a tensor was read"):
        resolve.load(tiny_gguf)


def test_text_equals_the_full_load(tiny_gguf: Path) -> None:
    text, full = resolve.load_text(tiny_gguf), resolve.load(tiny_gguf)
    assert text.config == full.model.config
    assert text.tokenizer.bytes_table == full.tokenizer.bytes_table


def test_embedded_name_is_fetched(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "fetch_embedded", lambda: tiny_gguf)
    assert resolve.locate("SmolLM2-135M-Instruct") == (tiny_gguf, embedded.EMBEDDED_NAME)


def test_unknown_name_lists_the_ways(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no such file or folder.*smollm2-135m-instruct"):
        resolve.load("nothing")
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        resolve.load(tmp_path / "missing.gguf")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        resolve.load(tmp_path)


def test_hub_id_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_hub(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(ModelNotFoundError, match=r"pip install 'diptych\[hub\]'"):
        resolve.locate("owner/name")


def test_hub_id_where_it_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the optional package huggingface_hub is missing")

    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("Name or service not known\nlong trace")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(
        ModelNotFoundError, match=r"'owner/name' could not be fetched.*service not known. If this"
    ):
        resolve.locate("owner/name")


def test_hub_id_is_asked_for_model_files_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the optional package huggingface_hub is missing")
    asked = {}

    def snapshot(model_id: str, **options: Any) -> str:
        asked[model_id] = options["allow_patterns"]
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert resolve.locate("owner/name") == (tmp_path, "owner/name")
    assert asked == {"owner/name": ["*.json", "*.jinja", "*.safetensors"]}


def test_loading_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, diptych.models.resolve; print({'torch', 'transformers', 'gguf'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
