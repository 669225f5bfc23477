"""The GGUF header reader, held to the `gguf` package and to damaged files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.models.errors import ModelError
from diptych.models.gguf_file import GgufFile

Rewrite = Callable[[Callable[[bytearray], None]], Path]


def test_equals_the_reference_reader(tiny: Any, tmp_path: Path) -> None:
    q8_0, q4_1 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1
    path = tiny.write_gguf(
        tmp_path / "mixed.gguf",
        metadata={"x.text": "Grüße", "x.flag": True, "x.real": 0.5, "x.count": 4_000_000_000},
        quantise={"token_embd.weight": q8_0, "blk.0.attn_v.weight": q4_1},
    )
    ours, reference = GgufFile(path), gguf.GGUFReader(path)
    for key, field in reference.fields.items():
        if not key.startswith("GGUF."):
            assert ours.metadata[key] == field.contents(), key
    assert list(ours.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        entry = ours.tensors[tensor.name]
        assert entry.shape == tuple(reversed(tensor.shape.tolist()))
        assert entry.encoding == tensor.tensor_type.name.lower()
        assert entry.offset == tensor.data_offset
        assert ours.array(tensor.name).tobytes() == tensor.data.tobytes()


def test_tensor_bytes_are_not_copied(tiny_gguf: Path) -> None:
    array = GgufFile(tiny_gguf).array("token_embd.weight")
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_not_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match="not a GGUF file"):
        GgufFile(path)
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="too few"):
        GgufFile(path)


def test_version_is_named(rewrite: Rewrite) -> None:
    path = rewrite(lambda data: struct.pack_into("<I", data, 4, 9))
    with pytest.raises(ModelError, match="version 9"):
        GgufFile(path)


def test_truncated_file_names_the_tensor(rewrite: Rewrite) -> None:
    def cut(data: bytearray) -> None:
        del data[-64:]

    with pytest.raises(ModelError, match=r"tensor .* ends past the end of the file"):
        GgufFile(rewrite(cut))


def test_foreign_encoding_is_named(tiny: Any, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q5_0
    path = tiny.write_gguf(tmp_path / "q5.gguf", quantise={"blk.0.attn_v.weight": kind})
    with pytest.raises(ModelError, match=r"blk\.0\.attn_v\.weight is encoded as q5_0; supported are f32"):
        GgufFile(path)


def test_array_longer_than_the_file(rewrite: Rewrite) -> None:
    def enlarge(data: bytearray) -> None:
        at = data.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
        struct.pack_into("<Q", data, at, 1 << 60)

    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.tokens claims 1152921504606846976 elements"):
        GgufFile(rewrite(enlarge))


def test_nested_arrays_are_refused(rewrite: Rewrite) -> None:
    def nest(data: bytearray) -> None:
        at = data.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 4
        struct.pack_into("<I", data, at, 9)

    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.tokens holds nested arrays"):
        GgufFile(rewrite(nest))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_never_escapes_as_another_error(data: st.DataObject, tiny_gguf: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_gguf.read_bytes())
    header_bytes = GgufFile(tiny_gguf).tensors["token_embd.weight"].offset
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header_bytes - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content[:end])
    try:
        file = GgufFile(path)
    except ModelError:
        return
    for name in file.tensors:
        assert isinstance(file.array(name), np.ndarray)
