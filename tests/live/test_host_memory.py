"""Pool, sealed weights and the token table: what the processes of a host share."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from diptych.live.pool import (
    MEBIBYTE,
    create_pool,
    huge_pages_free,
    memory_available_bytes,
    pool_pages,
)
from diptych.live.sealed_memory import MemoryWriter, create_sealed
from diptych.live.token_table import TokenTable, create_token_table


def test_pool_is_zeroed_writable_and_fixed_in_size() -> None:
    descriptor = create_pool(4 * 4096)
    with mmap.mmap(descriptor, 4 * 4096) as pool:
        assert pool[:] == bytes(4 * 4096)
        pool[5] = 7
        with mmap.mmap(descriptor, 4 * 4096) as other:
            assert other[5] == 7
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 1)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 1 << 30)
    os.close(descriptor)


def test_pool_pages() -> None:
    assert pool_pages(4096, 10 * 4096 + 1) == 10
    assert pool_pages(1 * MEBIBYTE, None) >= 1
    with pytest.raises(ValueError, match="smaller than one page of 4096"):
        pool_pages(4096, 4095)
    with pytest.raises(ValueError, match="available"):
        pool_pages(4096, 1 << 60)


def test_meminfo(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 10 kB\nMemAvailable:   7 kB\nHugePages_Free:    3\n")
    assert memory_available_bytes(path) == 7 * 1024
    assert huge_pages_free(path) == 3
    path.write_text("MemTotal: 10 kB\n")
    assert huge_pages_free(path) == 0
    with pytest.raises(OSError, match="MemAvailable"):
        memory_available_bytes(path)


def test_sealed_memory_cannot_be_written() -> None:
    descriptor = create_sealed("t", b"weights")
    assert os.pread(descriptor, 100, 0) == b"weights"
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, 7)
    os.close(descriptor)


def test_a_writer_with_views_left_refuses_to_seal() -> None:
    writer = MemoryWriter("t", 10)
    view = writer.memory
    with pytest.raises(BufferError):
        writer.seal()
    view.release()
    os.close(writer.seal())


def test_token_table_gives_every_token_its_bytes() -> None:
    tokens = [b"", b"a", b"\xff\xfe", b"", b"word"]
    descriptor = create_token_table(tokens)
    table = TokenTable(descriptor)
    os.close(descriptor)
    assert [table.token_bytes(token) for token in range(len(table))] == tokens
    for outside in (-1, 5):
        with pytest.raises(IndexError, match="vocabulary of 5"):
            table.token_bytes(outside)


@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00", b"\x01\x00\x00\x00\x09\x00\x00\x00ab"])
def test_damaged_token_tables_are_refused(data: bytes) -> None:
    descriptor = create_sealed("t", data)
    with pytest.raises(ValueError, match="token table"):
        TokenTable(descriptor)
    os.close(descriptor)
