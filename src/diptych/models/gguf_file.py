"""A GGUF file: its metadata and its tensors, memory-mapped. Knows no architecture and no tokenizer.

The layout is the GGUF specification, versions 2 and 3, little endian. The header is parsed here and
not by the `gguf` package, whose reader makes several NumPy arrays per vocabulary entry: 2 s for 49,000
tokens and as many merges, the whole budget of a start. The tests hold this reader to that package.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from diptych.models.encoding import ENCODINGS, row_bytes
from diptych.models.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING = 8
_ARRAY = 9

# Numbers of `ggml_type` for the encodings that engines here take, and names of the others for messages.
_ENCODINGS = {0: "f32", 1: "f16", 3: "q4_1", 8: "q8_0", 30: "bf16"}
_FOREIGN_ENCODINGS = {
    2: "q4_0", 6: "q5_0", 7: "q5_1", 9: "q8_1", 10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k",
    15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s",
    22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m",
    34: "tq1_0", 35: "tq2_0", 39: "mxfp4",
}  # fmt: skip


class GgufTensor(msgspec.Struct, frozen=True):
    """Where one tensor lies. `shape` is row-major, outermost first (GGUF stores it reversed)."""

    name: str
    encoding: str
    shape: tuple[int, ...]
    offset: int
    """From the start of the file, in bytes."""
    size_bytes: int


class GgufFile:
    """Metadata at once, tensor bytes on demand.

    Raises `ModelError` naming the file and the field where the header is damaged or a tensor reaches
    past the end of the file; `FileNotFoundError` where there is no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            if size_bytes < 24:
                raise ModelError(f"{path}: {size_bytes} bytes are too few for a GGUF header")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = _Header(self._map, path)
        self.metadata: dict[str, Any] = header.metadata
        self.tensors: dict[str, GgufTensor] = header.tensors

    def array(self, name: str) -> npt.NDArray[Any]:
        """Tensor bytes where they lie in the map (read-only): `[*shape]` of float32 or of 16-bit
        patterns, or uint8 `[rows, row bytes]` for block encodings."""
        tensor = self.tensors[name]
        layout = ENCODINGS[tensor.encoding]
        flat: npt.NDArray[Any] = np.frombuffer(
            self._map, layout.storage, tensor.size_bytes // np.dtype(layout.storage).itemsize, tensor.offset
        )
        if not layout.quantised:
            return flat.reshape(tensor.shape)
        return flat.reshape(-1, row_bytes(tensor.encoding, tensor.shape[-1]))


class _Header:
    """One pass over the header; `_offset` is the cursor."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._offset = 4
        if data[:4] != MAGIC:
            raise ModelError(f"{path}: not a GGUF file (it starts with {data[:4]!r})")
        version = self._scalar("<I")
        if version not in VERSIONS:
            raise ModelError(f"{path}: GGUF version {version}; versions 2 and 3 (little endian) are read")
        try:
            tensor_count, metadata_count = self._scalar("<Q"), self._scalar("<Q")
            self.metadata = self._read_metadata(metadata_count)
            self.tensors = self._read_tensors(tensor_count)
        except (struct.error, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: damaged GGUF header near byte {self._offset}: {error}") from error

    def _scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._offset)
        self._offset += struct.calcsize(layout)
        return value

    def _string(self) -> str:
        length = self._scalar("<Q")
        end = self._offset + length
        if end > len(self._data):
            raise ModelError(f"{self._path}: a string of {length} bytes reaches past the end of the file")
        text = self._data[self._offset : end].decode()
        self._offset = end
        return text

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise ModelError(f"{self._path}: metadata {key} has unknown type {kind}")
        return self._scalar(_SCALARS[kind])

    def _array(self, key: str) -> list[Any]:
        kind, count = self._scalar("<I"), self._scalar("<Q")
        # An element takes at least one byte, so a larger count is damage, not a large model.
        if count > len(self._data) - self._offset:
            raise ModelError(f"{self._path}: metadata {key} claims {count} elements, the file is shorter")
        if kind == _STRING:
            return self._strings(count, key)
        if kind not in _SCALARS:
            what = "nested arrays" if kind == _ARRAY else f"elements of unknown type {kind}"
            raise ModelError(f"{self._path}: metadata {key} holds {what}")
        layout = f"<{count}{_SCALARS[kind][1]}"
        values = struct.unpack_from(layout, self._data, self._offset)
        self._offset += struct.calcsize(layout)
        return list(values)

    def _strings(self, count: int, key: str) -> list[str]:
        # The vocabulary and the merges are here: the one loop of a load that is worth unrolling.
        unpack, data, offset = struct.Struct("<Q").unpack_from, self._data, self._offset
        values = []
        for _ in range(count):
            end = offset + 8 + unpack(data, offset)[0]
            if end > len(data):
                raise ModelError(f"{self._path}: metadata {key} reaches past the end of the file")
            values.append(data[offset + 8 : end].decode())
            offset = end
        self._offset = offset
        return values

    def _read_metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self._string()
            if key in metadata:
                raise ModelError(f"{self._path}: metadata {key} occurs twice")
            metadata[key] = self._value(self._scalar("<I"), key)
        return metadata

    def _read_tensors(self, count: int) -> dict[str, GgufTensor]:
        entries = []
        for _ in range(count):
            name, dimensions = self._string(), self._scalar("<I")
            if not 1 <= dimensions <= 4:
                raise ModelError(f"{self._path}: tensor {name} has {dimensions} dimensions, the limit is 4")
            shape = tuple(reversed([self._scalar("<Q") for _ in range(dimensions)]))
            entries.append((name, shape, self._scalar("<I"), self._scalar("<Q")))
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise ModelError(f"{self._path}: general.alignment is {alignment!r}, not a positive integer")
        start = -(-self._offset // alignment) * alignment
        tensors = {name: self._tensor(name, shape, kind, start + at) for name, shape, kind, at in entries}
        if len(tensors) != count:
            raise ModelError(f"{self._path}: two tensors have the same name")
        return tensors

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        encoding = _ENCODINGS.get(kind)
        if encoding is None:
            found = _FOREIGN_ENCODINGS.get(kind, f"number {kind}")
            raise ModelError(
                f"{self._path}: tensor {name} is encoded as {found}; "
                f"supported are {', '.join(_ENCODINGS.values())}"
            )
        if 0 in shape:
            raise ModelError(f"{self._path}: tensor {name} is empty, its shape is {shape}")
        if offset % 4:
            raise ModelError(f"{self._path}: tensor {name} starts at byte {offset}, which is not aligned")
        size_bytes = int(np.prod(shape[:-1], dtype=object)) * row_bytes(encoding, shape[-1])
        if offset + size_bytes > len(self._data):
            raise ModelError(f"{self._path}: tensor {name} ends past the end of the file; is it complete?")
        return GgufTensor(name, encoding, shape, offset, size_bytes)
