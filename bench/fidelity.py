"""The simulator against the live fleet: the same requests at the same times on both sides.

A fleet is profiled (`diptych profile`), served without a record, and driven over HTTP streams: in a
closed loop until it is saturated, which is its capacity; by Poisson arrivals at 20 % and at 80 % of
that; in closed loops of one client, and of many that pause so long that 80 % is asked for. The simulator
serves the same workloads with the profile's costs. Compared are TTFT and ITL as clients see them, TTFT
as the door's records have it, and throughput; warm-up left out on both sides.

    python bench/fidelity.py [--fleet scripted --fleet native] [--quick] [--html FILE] [--json FILE]

About 9 minutes for both fleets. Scripted workers sleep what they cost, so their errors are of
everything but engines; the real model shares the machine's cores with its client.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from comparison import Difference
from diptych.sim.costs.file import CostFile, read_costs
from diptych.sim.costs.measured import MeasuredCosts
from fidelity_page import write_page
from fidelity_sides import SETUPS, Cell, Setup, Side, requests_of
from fleet import fleet
from prioritised import take_priority
from report import Row, argument_parser, finish, machine

LOW, HIGH = 0.2, 0.8
WORKLOAD_S = 45
"""A workload that would take longer has fewer requests, on a slow or disturbed machine."""
REQUESTS_MIN = 40
DRIFT_MAX = 0.1
"""Of an engine's steps from before to after: more, and the errors are of the machine rather than of the
simulator."""
SHAPE = "input=64-320,output=16-48,shared=48"


def profile(folder: Path, out: str, *, quick: bool) -> CostFile:
    """What `diptych profile` measures of the fleet. Raises `subprocess.CalledProcessError`."""
    path = folder / out
    command = [sys.executable, "-m", "diptych.cli", "profile", str(folder / "fleet.toml"), "--out", str(path)]
    subprocess.run([*command, *(["--quick"] if quick else [])], check=True, stdout=subprocess.DEVNULL)
    return read_costs(path)


def saturating(setup: Setup) -> str:
    return f"closed:clients={setup.clients},think=0,requests={setup.saturating},{SHAPE}"


def poisson(share: float, capacity: float, requests: int) -> str:
    rate = share * capacity
    return f"poisson:rate={rate:.3g},requests={within(requests, rate)},{SHAPE}"


def within(requests: int, rate: float) -> int:
    """As many of the requests as come in time at so many a second."""
    return min(requests, max(REQUESTS_MIN, int(rate * WORKLOAD_S)))


def pausing(setup: Setup, capacity: float, mean_s: float) -> str:
    """Little's law: so long a pause that all clients together ask for that share, when a request takes
    `mean_s` from end to end."""
    think_s = max(0.0, setup.clients / (HIGH * capacity) - mean_s)
    requests = within(setup.loaded, HIGH * capacity)
    return f"closed:clients={setup.clients},think={think_s:.3g},requests={requests},{SHAPE}"


def measure(name: str, setup: Setup, quick: bool, console: Console) -> tuple[list[Cell], str]:
    """All workloads of one fleet, and words on its costs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "fleet.toml").write_text(setup.workers, encoding="utf-8")
        console.print(f"{name}: profiling", style="dim")
        costs = profile(folder, "costs.json", quick=quick)
        records = str(folder / "records.jsonl")
        with (
            fleet("--fleet", str(folder / "fleet.toml"), "--records", records) as running,
            Progress(*columns, console=console, disable=not console.is_terminal) as bar,
        ):
            cells = served(Side(name, setup, running, costs, folder), bar)
        console.print(f"{name}: profiling again", style="dim")
        again = profile(folder, "again.json", quick=True)
    return cells, words(costs, again)


def served(side: Side, bar: Progress) -> list[Cell]:
    """All workloads of a fleet; how much is asked follows from what the first one found."""
    setup, clients = side.setup, side.setup.clients
    cells: list[Cell] = []

    def both(name: str, spec: str, tail: int, capacity: float | None) -> float:
        task = bar.add_task(f"{side.name}: {name}", total=requests_of(spec))

        def progress(ended: int) -> None:
            bar.update(task, completed=ended)

        if not bar.console.is_terminal:
            bar.console.print(f"{side.name}: {name}, {spec}", style="dim", soft_wrap=True)
        cell, mean_s = side.both(name, spec, tail, capacity, progress)
        cells.append(cell)
        return mean_s

    both(f"closed loop, {clients} clients, saturated", saturating(setup), clients, None)
    capacity = cells[0].live.requests_per_s
    both(f"Poisson, {LOW:.0%}", poisson(LOW, capacity, setup.few), 0, capacity)
    mean_s = both(f"Poisson, {HIGH:.0%}", poisson(HIGH, capacity, setup.loaded), 0, capacity)
    both(f"closed loop, {clients} clients, {HIGH:.0%}", pausing(setup, capacity, mean_s), clients, capacity)
    both("closed loop, 1 client", f"closed:clients=1,think=0,requests={setup.few},{SHAPE}", 1, capacity)
    return cells


def words(costs: CostFile, again: CostFile) -> str:
    host, link = costs.host, costs.link
    drift = {
        name: drifts(before, after)
        for name, before in costs.workers.items()
        if isinstance(before, MeasuredCosts) and isinstance(after := again.workers.get(name), MeasuredCosts)
    }
    later = ", ".join(f"{name} {ratio:+.1%}" for name, ratio in drift.items())
    if any(abs(ratio) > DRIFT_MAX for ratio in drift.values()):
        later += ": THE MACHINE WAS DISTURBED, errors say little"
    return (
        f"a message {link.latency_ns / 1e3:.0f} us, a request besides its engines and messages "
        f"{host.request_ns / 1e6:.2f} ms, between two runs {host.turnaround_ns / 1e3:.0f} us, beside a busy "
        f"core x{host.slowdown:.2f}; steps when profiled again afterwards: {later}"
    )


def drifts(before: MeasuredCosts, after: MeasuredCosts) -> float:
    """How much longer steps took the second time: median over the points that both have."""
    first = _points(before)
    ratios = [ns / first[key] for key, ns in _points(after).items() if key in first]
    return statistics.median(ratios) - 1 if ratios else 0.0


def _points(costs: MeasuredCosts) -> dict[tuple[str, int, int], int]:
    prompts = {("prompt", point.tokens, point.context): point.ns for point in costs.prompt}
    return prompts | {("decode", point.sequences, point.context): point.ns for point in costs.decode}


def bound(difference: Difference, cell: Cell, kind: str) -> float | None:
    """The largest error that the cell's fleet is allowed, or aims at, in this figure; none where it is
    saturated: that is looked for to find its capacity."""
    bounds = {"must": SETUPS[cell.fleet].must, "goal": SETUPS[cell.fleet].goal}[kind]
    if bounds is None or cell.saturated or difference.name.endswith("p90"):
        return None
    return bounds.throughput if difference.name == "throughput" else bounds.percentile


def rows_of(cell: Cell) -> list[Row]:
    rows = []
    for one in cell.differences:
        must, goal = (bound(one, cell, kind) for kind in ("must", "goal"))
        rows.append(
            Row(
                name=f"{cell.fleet}, {cell.name}: {one.name}",
                value=one.live,
                unit=one.unit,
                against=f"simulated: {one.simulated:.4g} ({one.error:+.1%})",
                ratio=abs(one.error),
                must=None if must is None else f"<= {must}",
                goal=None if goal is None else f"<= {goal}",
            )
        )
    return rows


def show(cells: list[Cell], about: dict[str, str], console: Console) -> None:
    here = machine()
    console.print(f"[bold]fidelity[/] on {here['cpu']} ({here['cores']} cores), simulated against live")
    for name, text in about.items():
        console.print(f"{name}: {text}", style="dim", highlight=False)
    table = Table("workload", "figure", *("live", "simulated", "error", "noise", "bound"))
    for column in table.columns[2:]:
        column.justify = "right"
    for cell in cells:
        head = f"{cell.fleet}, {cell.name}\nload {cell.load:.0%}, host {cell.host_load:.1f}"
        for place, one in enumerate(cell.differences):
            limits = {kind: bound(one, cell, kind) for kind in ("must", "goal")}
            limit = next((value for value in limits.values() if value is not None), None)
            missed = limit is not None and abs(one.error) > limit
            kind = "goal" if limits["must"] is None else "must"
            table.add_row(
                head if place == 0 else "",
                f"{one.name}, {one.unit}",
                f"{one.live:.4g}",
                f"{one.simulated:.4g}",
                f"{one.error:+.1%}",
                "" if one.noise is None else f"±{one.noise:.1%}",
                "" if limit is None else f"{kind} {limit:.0%}",
                style="red" if missed else None,
                end_section=place == len(cell.differences) - 1,
            )
    console.print(table)


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--fleet", action="append", choices=list(SETUPS), help="only this one (both)")
    parser.add_argument("--quick", action="store_true", help="a third of the requests and of the profile")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page with plots of both sides")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments = parser.parse_args()
    priority = take_priority()
    console = Console(width=None if sys.stdout.isatty() else 120)
    cells: list[Cell] = []
    about = {"run": priority}
    for name in arguments.fleet or SETUPS:
        setup = SETUPS[name].quick() if arguments.quick else SETUPS[name]
        found, about[name] = measure(name, setup, arguments.quick, console)
        cells += found
    show(cells, about, console)
    if arguments.html is not None:
        write_page(arguments.html, cells, about)
        console.print(f"plots: {arguments.html}")
    rows = [row for cell in cells for row in rows_of(cell)]
    extra = {"about": about, "workloads": {f"{cell.fleet}, {cell.name}": cell.spec for cell in cells}}
    # The table above says it for people.
    return finish("fidelity", rows, arguments.json, extra=extra, console=Console(file=io.StringIO()))


if __name__ == "__main__":
    sys.exit(main())
