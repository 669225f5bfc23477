from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest

from diptych.transport.shared_memory import copy_in_huge_pages, map_pool, map_read_only

SIZE = 8 * mmap.PAGESIZE


def memfd(seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def test_what_one_mapping_writes_another_reads() -> None:
    descriptor = memfd()
    writer, reader = map_pool(descriptor, SIZE), map_pool(descriptor, SIZE - 100)
    os.close(descriptor)
    writer.memory[5000:5003] = b"abc"
    assert bytes(reader.memory[5000:5003]) == b"abc"
    assert (len(writer.memory), len(reader.memory)) == (SIZE, SIZE - 100)


def test_a_pool_that_is_too_small_or_could_shrink_is_refused() -> None:
    descriptor = memfd()
    with pytest.raises(ValueError, match=f"the file has {SIZE} bytes, {SIZE + 1} are needed"):
        map_pool(descriptor, SIZE + 1)
    os.close(descriptor)
    loose = memfd(seals=0)
    with pytest.raises(ValueError, match="not sealed against shrinking"):
        map_pool(loose, SIZE)
    os.close(loose)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("always within_size advise [never] deny force", False),
        ("always within_size [advise] never deny force", True),
        ("[always] within_size advise never deny force", True),
        ("always within_size advise never [deny] force", False),
        (None, False),
    ],
)
def test_huge_pages_are_reported_as_the_kernel_grants_them(
    tmp_path: Path, setting: str | None, expected: bool
) -> None:
    file = tmp_path / "shmem_enabled"
    if setting is not None:
        file.write_text(setting + "\n")
    descriptor = memfd()
    assert map_pool(descriptor, SIZE, setting=file).huge_pages is expected
    os.close(descriptor)


def test_sealed_weights_are_mapped_read_only() -> None:
    descriptor = memfd(seals=0)
    os.pwrite(descriptor, b"weights", 3)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
    memory = map_read_only(descriptor)
    os.close(descriptor)
    assert memory.readonly
    assert bytes(memory[3:10]) == b"weights"
    with pytest.raises(TypeError):
        memory[0] = 1


def setting(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("shared", "private", "available_kib", "copied"),
    [
        ("always [never]", "always [madvise] never", 1 << 20, True),
        ("always [never]", "[always] madvise never", 1 << 20, True),
        ("always [advise] never", "[always] madvise never", 1 << 20, False),
        ("always [never]", "always madvise [never]", 1 << 20, False),
        ("always [never]", "[always] madvise never", 16 * SIZE // 1024 - 1, False),
    ],
    ids=["advised", "always", "shared memory has them", "private memory has none", "too little memory"],
)
def test_weights_are_copied_only_where_huge_pages_are_to_be_had_that_way(
    tmp_path: Path, shared: str, private: str, available_kib: int, copied: bool
) -> None:
    weights = memoryview(bytes(range(256)) * (SIZE // 256))
    copy = copy_in_huge_pages(
        weights,
        shared=setting(tmp_path, "shared", shared),
        private=setting(tmp_path, "private", private),
        memory=setting(tmp_path, "memory", f"MemTotal: 9 kB\nMemAvailable: {available_kib} kB\n"),
    )
    assert (copy is not None) == copied
    if copy is not None:
        assert copy.readonly
        assert copy == weights
