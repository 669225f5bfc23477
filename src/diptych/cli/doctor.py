"""`diptych doctor`: what this machine has for serving, and what to do about what it lacks.

Exit codes: 0 it can serve, 1 something that is needed is missing, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych.live.pool import MEBIBYTE, huge_pages_free, memory_available_bytes

NOT_RUN = (
    "Not run on hardware so far: GPUs, Trainium, wafers, AMX tiles, RDMA or EFA networks, ARM CPUs. "
    "What is measured was measured on x86-64 CPUs."
)
_FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
)
_SERVE_BYTES = 1536 * MEBIBYTE
"""The default fleet with a small pool."""
_EXTRAS = {
    "torch": "pip install torch (reference engine and tests)",
    "huggingface_hub": "pip install 'diptych[hub]' (models by Hugging Face id)",
    "openai": "pip install openai (the first README example)",
    "boto3": "pip install boto3 (the Bedrock example)",
}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: str
    """`ok`; `note`: serving works without it; `missing`: serving does not."""
    found: str
    remedy: str = ""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine",
        description="What this machine has for serving, each finding with its remedy.",
        epilog="exit codes: 0 it can serve, 1 something needed is missing, 2 wrong usage",
    )
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    checks = examine()
    code = 1 if any(check.state == "missing" for check in checks) else 0
    if arguments.json:
        document = {"checks": msgspec.to_builtins(checks), "not_run_on_hardware": NOT_RUN}
        print(json.dumps(document, indent=2))
        return code
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "found", "remedy"):
        table.add_column(column, overflow="fold")
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[bold red]missing[/]"}
    for check in checks:
        table.add_row(marks[check.state], check.name, escape(check.found), escape(check.remedy))
    console.print(table)
    console.print(f"\n[dim]{NOT_RUN}[/]")
    return code


def examine() -> list[Check]:
    """All findings, in the order a person wants to read them."""
    examinations: tuple[Callable[[], Check], ...] = (
        _system,
        _processor,
        _kernels,
        _conversion,
        _core,
        _memory,
        _shared_memory,
        _huge_pages,
        _model,
        _compilers,
    )
    return [examination() for examination in examinations] + [_extra(name) for name in _EXTRAS]


def _system() -> Check:
    found = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    if platform.system() != "Linux":
        return Check(
            name="system",
            state="missing",
            found=found,
            remedy="`diptych serve` needs Linux: its pool is a memfd, its children are watched by pidfds",
        )
    return Check(name="system", state="ok", found=found)


def _processor(path: Path = Path("/proc/cpuinfo")) -> Check:
    cores = len(os.sched_getaffinity(0))
    lines = path.read_text().splitlines() if path.is_file() else []
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(values.get("flags", values.get("Features", "")).split())
    features = [name for name in _FEATURES if name in flags]
    found = (
        f"{values.get('model name', platform.machine())}, {cores} cores; {' '.join(features) or 'no vectors'}"
    )
    if cores < 2:
        return Check(
            name="processor",
            state="note",
            found=found,
            remedy="with one core a single worker does both halves; give it two for disaggregation",
        )
    return Check(name="processor", state="ok", found=found)


def _kernels() -> Check:
    try:
        from diptych.engine.native import _kernels as kernels
    except ImportError as error:
        return Check(
            name="native kernels",
            state="missing",
            found=str(error),
            remedy="pip install . with g++ present (apt install g++), or serve with --prefill torch",
        )
    forced = os.environ.get("DIPTYCH_ISA")
    found = f"instruction set {kernels.default_variant()}"
    return Check(name="native kernels", state="ok", found=found + (" (DIPTYCH_ISA is set)" if forced else ""))


def _conversion() -> Check:
    from diptych.conversion import instruction_sets
    from diptych.wire.kv import VERSIONS

    versions = f"records of version {', '.join(map(str, VERSIONS))}"
    if not instruction_sets():
        return Check(
            name="page conversion",
            state="note",
            found=f"{versions}; not compiled, NumPy converts, slowly",
            remedy="pip install . with g++ present (apt install g++)",
        )
    return Check(name="page conversion", state="ok", found=f"{versions}; {' '.join(instruction_sets())}")


def _core() -> Check:
    """The machines do the same either way; compiled they need less than half of the time."""
    module = importlib.util.find_spec("diptych.core.worker.machine")
    if module is not None and not (module.origin or ".py").endswith(".py"):
        return Check(name="core", state="ok", found="compiled")
    return Check(
        name="core",
        state="note",
        found="interpreted Python",
        remedy="pip install . compiles it where a C compiler is; for development it is meant to be as it is",
    )


def _memory() -> Check:
    available = memory_available_bytes()
    found = f"{available // MEBIBYTE} MiB available"
    if available < _SERVE_BYTES:
        return Check(
            name="memory",
            state="note",
            found=found,
            remedy=f"the default fleet wants {_SERVE_BYTES // MEBIBYTE} MiB; try --pool-mib 128",
        )
    return Check(name="memory", state="ok", found=found)


def _shared_memory() -> Check:
    try:
        descriptor = os.memfd_create("diptych-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.close(descriptor)
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return Check(
            name="memfd, pidfd",
            state="missing",
            found=str(error),
            remedy="Linux 5.3 or newer, and a sandbox that lets memfd_create and pidfd_open through",
        )
    return Check(name="memfd, pidfd", state="ok", found="both work")


def _huge_pages() -> Check:
    free = huge_pages_free()
    path = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    shmem = path.read_text() if path.is_file() else ""
    chosen = shmem.partition("[")[2].partition("]")[0] or "none"
    found = f"{free} reserved and free; transparent ones for shared memory: {chosen}"
    if free or chosen in ("always", "within_size", "force"):
        return Check(name="huge pages", state="ok", found=found)
    remedy = "faster attention over long contexts: sysctl vm.nr_hugepages=512 (1 GiB) before serving"
    return Check(name="huge pages", state="note", found=found, remedy=remedy)


def _model() -> Check:
    from diptych.models.embedded import EMBEDDED_NAME, embedded_path, embedded_present

    if embedded_present():
        return Check(name="model", state="ok", found=f"{EMBEDDED_NAME} at {embedded_path()}")
    return Check(
        name="model",
        state="note",
        found=f"{EMBEDDED_NAME} is not on this machine",
        remedy="diptych models fetch (93 MB; serve does it too), or serve --model FILE.gguf",
    )


def _compilers() -> Check:
    found = []
    for program in ("g++", "clang++", "cmake", "ninja"):
        path = shutil.which(program)
        if path is not None:
            found.append(_first_line([path, "--version"]) or program)
    if any(name in line for line in found for name in ("g++", "clang")):
        return Check(name="compilers", state="ok", found="; ".join(found))
    return Check(
        name="compilers",
        state="note",
        found="; ".join(found) or "none",
        remedy="only for building from source: apt install g++ (cmake and ninja come from pip)",
    )


def _first_line(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (result.stdout.splitlines() or [""])[0]


def _extra(name: str) -> Check:
    if importlib.util.find_spec(name) is not None:
        return Check(name=f"optional: {name}", state="ok", found="installed")
    return Check(name=f"optional: {name}", state="note", found="not installed", remedy=_EXTRAS[name])
