"""llama.cpp as the yardstick: built once into the cache folder, with the model in its own formats.

The sources are those inside the sdist of `llama-cpp-python`. Two builds may be made: `native`, everything
that this CPU has, and one that is held to the instruction set our kernels run.

    python bench/llama_cpp.py            builds, and makes the model files
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from diptych.models.cache import cache_folder
from prioritised import output_of

PACKAGE_VERSION = "0.3.36"
TITLE = f"llama.cpp (sources of llama-cpp-python {PACKAGE_VERSION})"
TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize")
MODEL_TYPES = {"int4": "Q4_1", "int8": "Q8_0", "bf16": "BF16"}
"""Our weight formats and llama.cpp's of the same number of bits."""

_FLAGS = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF"),
    *("-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_UI=OFF"),
)
_SETS = {
    "plain": (),
    "avx2": ("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C"),
    "avx512": (
        *("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C"),
        *("AVX512", "AVX512_VNNI", "AVX512_BF16"),
    ),
}
"""Instruction sets of our kernels, as ggml's options `GGML_...` name them."""
_BEYOND = {
    "avx512": ("amx_tile", "avx512_fp16"),
    "avx2": ("avx512f", "avx_vnni"),
    "plain": ("avx", "sse4_2"),
}
"""CPU features outside each set that ggml has code for: without them a native build is held to the set."""


class LlamaCpp(msgspec.Struct, frozen=True, kw_only=True):
    """One build: `isa` is `native` or one of our kernels' sets."""

    isa: str
    binaries: Path

    def speed(self, model: Path, *, prompt: int = 0, generated: int = 0, depth: int = 0) -> float:
        """Tokens/s of one thread: of a prompt of `prompt` tokens, or of `generated` tokens one by one
        after `depth` tokens of context."""
        command = [str(self.binaries / "llama-bench"), "-m", str(model), "-t", "1", "-r", "1", "-o", "json"]
        command += ["-p", str(prompt), "-n", str(generated), "-d", str(depth)]
        return bench_speed(output_of(command))

    def batched_speed(self, model: Path, *, batch: int, generated: int, depth: int) -> float:
        """Tokens/s over the whole batch, one thread: every sequence has `depth` tokens of context."""
        command = [str(self.binaries / "llama-batched-bench"), "-m", str(model), "-t", "1", "-tb", "1"]
        command += ["-c", str(batch * (depth + generated)), "-npp", str(depth), "-ntg", str(generated)]
        # The context is computed once and copied to every sequence.
        command += ["-npl", str(batch), "-pps", "--output-format", "jsonl"]
        return batched_speed(output_of(command))


def bench_speed(text: str) -> float:
    """Tokens/s in the JSON of `llama-bench`. Raises `ValueError` unless it holds exactly one test."""
    tests = json.loads(text)
    if len(tests) != 1:
        raise ValueError(f"llama-bench ran {len(tests)} tests, not one")
    return float(tests[0]["avg_ts"])


def batched_speed(text: str) -> float:
    """Generated tokens/s in the output of `llama-batched-bench`. Raises `ValueError` without exactly one."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if len(lines) != 1:
        raise ValueError(f"llama-batched-bench printed {len(lines)} results, not one")
    return float(json.loads(lines[0])["speed_tg"])


def same_set(isa: str, cpu_features: set[str]) -> str:
    """Which build has just our kernels' instruction set `isa`: `native` where the CPU has no more."""
    return isa if cpu_features.intersection(_BEYOND[isa]) else "native"


def cpu_features() -> set[str]:
    """Instruction sets of this CPU as Linux names them; empty elsewhere than on x86."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def set_flags(isa: str) -> list[str]:
    """CMake flags of a build."""
    if isa == "native":
        return ["-DGGML_NATIVE=ON"]
    wanted = _SETS[isa]
    return ["-DGGML_NATIVE=OFF", *(f"-DGGML_{name}={_on(name in wanted)}" for name in _SETS["avx512"])]


def _on(condition: bool) -> str:
    return "ON" if condition else "OFF"


def folder() -> Path:
    """Where sources, builds and model files are kept."""
    return cache_folder() / "bench" / f"llama.cpp-{PACKAGE_VERSION}"


def build(isa: str, console: Console) -> LlamaCpp:
    """The build for `isa`, made now if it is missing. Raises `RuntimeError` saying what failed."""
    built = LlamaCpp(isa=isa, binaries=folder() / isa / "bin")
    if all((built.binaries / tool).is_file() for tool in TOOLS):
        return built
    console.print(
        f"Building {TITLE}, instruction set {isa}, into {folder()}: "
        "once, about 8 minutes of CPU time at low priority"
    )
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} is needed to build llama.cpp: pip install {tool}")
    _fetch_sources(console)
    configure = ["cmake", "-S", str(folder() / "source"), "-B", str(folder() / isa), "-G", "Ninja", *_FLAGS]
    with console.status("Configuring"):
        output_of([*configure, *set_flags(isa)])
    _compile(folder() / isa, console)
    return built


def _fetch_sources(console: Console) -> None:
    target = folder() / "source"
    if target.is_dir():
        return
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder(), prefix=".fetch-") as work:
        with console.status(f"Downloading llama-cpp-python {PACKAGE_VERSION} (77 MB)"):
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
            pip += ["--no-binary", "llama-cpp-python", "--dest", work]
            output_of([*pip, f"llama-cpp-python=={PACKAGE_VERSION}"])
        (archive,) = Path(work).glob("llama_cpp_python-*.tar.gz")
        with console.status("Unpacking"), tarfile.open(archive) as tar:
            members = [one for one in tar if "/vendor/llama.cpp/" in one.name]
            tar.extractall(work, members, filter="data")
        (unpacked,) = Path(work).glob("llama_cpp_python-*/vendor/llama.cpp")
        unpacked.rename(target)


def _compile(where: Path, console: Console) -> None:
    """Neighbours come first: one job, lowest priority."""
    command = ["nice", "-n", "19", "ninja", "-C", str(where), "-j1", *TOOLS]
    columns = (TextColumn("Compiling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    last: list[str] = []
    with (
        Progress(*columns, console=console) as progress,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ninja,
    ):
        assert ninja.stdout is not None
        task = progress.add_task("")
        for line in ninja.stdout:
            last = [*last[-19:], line]
            counted = re.match(r"\[(\d+)/(\d+)\]", line)
            if counted:
                progress.update(task, completed=int(counted[1]), total=int(counted[2]))
    if ninja.returncode != 0:
        raise RuntimeError("llama.cpp did not compile:\n" + "".join(last))


def model_file(format: str, source: Path, built: LlamaCpp, console: Console) -> Path:
    """The model `source` (a GGUF file in Q4_1) with the weights of our `format`, made now if missing.

    Raises `RuntimeError` with llama-quantize's last words."""
    kind = MODEL_TYPES[format]
    if source.stem.endswith(kind):
        return source
    target = folder() / "models" / f"{source.stem}-as-{kind}.gguf"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    tool = str(built.binaries / "llama-quantize")
    with console.status(f"Quantising {source.stem} to {kind}"):
        output_of([tool, "--allow-requantize", str(source), str(part), kind, "1"])
    part.replace(target)
    return target


def settings(isa: str) -> dict[str, Any]:
    """What a report states of a build."""
    return {"package": f"llama-cpp-python {PACKAGE_VERSION}", "cmake": [*_FLAGS, *set_flags(isa)]}


def main() -> None:
    from diptych.engine.native import _kernels
    from diptych.models.embedded import fetch_embedded

    console = Console()
    own = same_set(_kernels.default_variant(), cpu_features())
    builds = [build(isa, console) for isa in dict.fromkeys(("native", own))]
    for format in MODEL_TYPES:
        console.print(f"{format}: {model_file(format, fetch_embedded(), builds[0], console)}")


if __name__ == "__main__":
    main()
