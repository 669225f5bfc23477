"""The simulator's speed: requests of a Mooncake trace through 4 prefill and 4 decode workers on one core.

    python bench/simulate.py --trace FILE [--dynosim PYTHON] [--rounds 3] [--limit N] [--json FILE]

In turns with DynoSim (`dynamo.replay` of ai-dynamo, by its own "Wall Time", which like ours leaves out
start and reading), at the trace's arrivals and at four times their speed; without checkers. DynoSim routes
round robin and knows no link contention. What runs of many steps are worth is measured by forcing runs to
one step. A compiled build beside this one (`make compiled`) takes its turns too. `--install-peer` makes a
virtual environment with ai-dynamo in the cache first. Without a trace one of 2,000 requests is generated.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from builds import add_option, build, elsewhere, others, print_one
from diptych.core.config import ControlConfig
from diptych.models.cache import cache_folder
from diptych.sim.costs.model import ConstantCosts
from diptych.sim.scenario import MILLISECOND_NS, Scenario, WorkerPlan
from diptych.sim.timed.plan import Plan
from diptych.sim.timed.replay import serve, started
from diptych.sim.workloads.traces import mooncake
from prioritised import pinned, take_priority
from report import Row, argument_parser, best_and_median, finish

PAIRS = 4
PAGE_TOKENS = 512
PAGES = 20_000
CHUNK_TOKENS = 8192
"""Of a step, alone or beside decoding sequences: what DynoSim's engines take by default."""
PEER = "ai-dynamo==1.4.2"
COSTS = ConstantCosts(step_ns=5_500_000, prompt_token_ns=40_000, decode_row_ns=50_000)
SPEEDUPS = (1, 4)
BOUNDS = {"interpreted": (">= 2", ">= 4"), "compiled": (">= 4", ">= 10")}
"""(must, goal) of the ratio to DynoSim."""


def fleet(steps_max: int | None) -> Plan:
    workers = tuple(
        WorkerPlan(
            name=f"{role}-{number}",
            role=role,
            numerics=("fp8",),
            pages=PAGES,
            chunk_tokens=CHUNK_TOKENS,
            mixed_chunk_tokens=CHUNK_TOKENS,
            quantum_tokens=PAGE_TOKENS,
            running_max=256,
            context_tokens_max=1 << 20,
            prefill_ns_per_token=40_000,
            decode_ns_per_step=6 * MILLISECOND_NS,
        )
        for role in ("prefill", "decode")
        for number in range(PAIRS)
    )
    control = ControlConfig(queue_max=1 << 30)
    scenario = Scenario(workers=workers, requests=(), page_tokens=PAGE_TOKENS, control=control)
    return Plan(scenario=scenario, costs={own.name: COSTS for own in workers}, steps_max=steps_max)


def ours(trace: Path, speedup: int, steps_max: int | None) -> tuple[float, float, float]:
    """(requests/s, events a request, share handed over) of one run."""
    workload = mooncake(trace, speedup=speedup)
    gc.collect()
    gc.disable()
    world = started(fleet(steps_max))
    begun = time.perf_counter()
    serve(world, workload)
    seconds = time.perf_counter() - begun
    gc.enable()
    served = world.meter.served
    if any(one.failure for one in served):
        raise RuntimeError("not every request was served")
    handed = sum(one.handoff_pages > 0 for one in served)
    return len(served) / seconds, world.driver.events / len(served), handed / len(served)


def dynosim(python: Path, trace: Path, speedup: int) -> float:
    """Requests/s by DynoSim's own clock. Raises `RuntimeError` with its last words."""
    engine = {"engine_type": "vllm", "num_gpu_blocks": PAGES, "block_size": PAGE_TOKENS}
    command = [str(python), "-m", "dynamo.replay", str(trace), "--replay-mode", "offline"]
    for role in ("prefill", "decode"):
        command += [f"--num-{role}-workers", str(PAIRS)]
        command += [f"--{role}-engine-args", json.dumps(engine | {"worker_type": role})]
    command += ["--trace-block-size", str(PAGE_TOKENS), "--arrival-speedup-ratio", str(speedup)]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"DYN_LOG": "error"}
        done = subprocess.run(
            [*command, "--report-json", f"{folder}/report.json"],
            capture_output=True, text=True, check=False, cwd=folder, env=environment,
        )  # fmt: skip
    wall = re.search(r"Wall Time \(ms\): ([\d,.]+)", done.stdout)
    if done.returncode or wall is None:
        raise RuntimeError(f"dynamo.replay: {(done.stderr or done.stdout).strip()[-400:]}")
    requests = sum(1 for _ in trace.open("rb"))
    return requests / float(wall[1].replace(",", "")) * 1e3


def install_peer(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", PEER], check=True)


def generated(path: Path, requests: int = 2000) -> Path:
    """Conversations of some turns with a common beginning, in Mooncake's format."""
    draw, at_ms, blocks = random.Random("trace"), 0.0, 1
    histories: list[list[int]] = []
    with path.open("w", encoding="ascii") as out:
        for _ in range(requests):
            at_ms += draw.expovariate(1 / 290)
            if not histories or draw.random() < 0.6:
                histories.append([0])
            history = draw.choice(histories[-200:])
            fresh = max(1, round(draw.lognormvariate(2.2, 0.8)))
            history += range(blocks, blocks + fresh)
            blocks += fresh
            tokens = len(history) * PAGE_TOKENS - draw.randrange(PAGE_TOKENS)
            output = max(1, round(draw.lognormvariate(5.6, 0.7)))
            line = {"timestamp": round(at_ms), "input_length": tokens, "output_length": output}
            out.write(json.dumps(line | {"hash_ids": history}) + "\n")
    return path


class Turns:
    """Requests/s of each build and of the peer, measured one after the other."""

    def __init__(self, options: argparse.Namespace, trace: Path, speedup: int, pythons: list[Path]) -> None:
        self.speeds: dict[str, list[float]] = {}
        self.single: dict[str, float] = {}
        """Runs forced to one step, measured once."""
        self.peer: list[float] = []
        self.events = self.handed = 0.0
        asked = (str(trace), str(speedup))
        for turn in range(options.rounds):
            speed, self.events, self.handed = ours(trace, speedup, None)
            self.speeds.setdefault(build(), []).append(speed)
            for python in pythons:
                found = elsewhere(python, Path(__file__), *asked, "0")
                self.speeds.setdefault("compiled", []).append(found[0])
            if options.dynosim is not None:
                self.peer.append(dynosim(options.dynosim, trace, speedup))
            if turn == 0:
                self.single[build()] = ours(trace, speedup, 1)[0]
                for python in pythons:
                    self.single["compiled"] = elsewhere(python, Path(__file__), *asked, "1")[0]


def measure(options: argparse.Namespace, trace: Path, speedup: int, pythons: list[Path]) -> list[Row]:
    turns = Turns(options, trace, speedup, pythons)
    rows = []
    for name, speeds in turns.speeds.items():
        rows += _rows(turns, name, speeds, f"{name}, arrivals x{speedup}")
    handed = f"arrivals x{speedup} ({turns.handed:.0%} handed over)"
    return [*rows, Row(name=f"events a request, {handed}", value=turns.events, unit="events")]


def _rows(turns: Turns, name: str, speeds: list[float], label: str) -> list[Row]:
    best, median = best_and_median(speeds, lower_is_better=False)
    against = ratio = must = goal = None
    if turns.peer:
        peer = best_and_median(turns.peer, lower_is_better=False)[1]
        against, ratio = f"DynoSim ({PEER}), median {peer:,.0f} requests/s", median / peer
        must, goal = BOUNDS[name]
    return [
        Row(
            name=f"simulated requests/s, {label}: median of {len(speeds)}",
            value=median, unit="requests/s", against=against, ratio=ratio, must=must, goal=goal,
        ),
        Row(name=f"the same, {label}: best", value=best, unit="requests/s"),
        Row(name=f"runs forced to one step, {label}", value=turns.single[name], unit="requests/s"),
        Row(name=f"due to runs of many steps, {label}", value=median / turns.single[name], unit="x"),
    ]  # fmt: skip


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--trace", type=Path, help="Mooncake trace (default: a generated one)")
    parser.add_argument("--dynosim", type=Path, metavar="PYTHON", help="interpreter that has ai-dynamo")
    parser.add_argument("--install-peer", action="store_true", help=f"install {PEER} into the cache first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="first requests of the trace only")
    parser.add_argument("--one", nargs=3, metavar=("TRACE", "SPEEDUP", "STEPS"))
    add_option(parser)
    options = parser.parse_args()
    if options.one is not None:
        trace, speedup, steps_max = options.one
        return print_one(ours(Path(trace), int(speedup), int(steps_max) or None))
    folder = cache_folder() / "peers" / "dynosim"
    if options.install_peer:
        install_peer(folder)
    if options.dynosim is None and (folder / "bin" / "python").exists():
        options.dynosim = folder / "bin" / "python"
    if options.dynosim is None:
        print(f"DynoSim is not there: --install-peer, or --dynosim PYTHON with {PEER}", file=sys.stderr)
    words, pythons = take_priority(), others(options.compiled)
    with pinned() as cpu, tempfile.TemporaryDirectory() as temporary:
        trace = options.trace or generated(Path(temporary) / "trace.jsonl")
        if options.limit is not None:
            lines = trace.read_text().splitlines(keepends=True)[: options.limit]
            trace = Path(temporary) / "limited.jsonl"
            trace.write_text("".join(lines))
        rows = [row for speedup in SPEEDUPS for row in measure(options, trace.absolute(), speedup, pythons)]
    extra = {"run": f"{words}, CPU {cpu}, {options.trace or 'generated trace'}, no checkers"}
    return finish("simulate", rows, options.json, packages=("msgspec",), extra=extra)


if __name__ == "__main__":
    sys.exit(main())
