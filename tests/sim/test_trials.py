"""Trials on many processes, and failures made small."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from diptych.core.pages.ledger import Ledger
from diptych.sim import __main__ as program
from diptych.sim.scenario import Fault, RequestPlan, Scenario, WorkerPlan
from diptych.sim.seeds import scenario
from diptych.sim.trials.many import try_all
from diptych.sim.trials.shrink import Shrinker, broken_rule, with_doors, with_requests, with_workers
from diptych.sim.trials.trial import rule_of, try_scenario

MUTANTS = Path(__file__).resolve().parent.parent / "mutants"
BUG = "a deposit is never paid back"


def test_processes_find_what_one_finds() -> None:
    names = ["mixed-1", "handoff-2", "network-3", "strain-4", "mixed-5"]
    alone = {verdict.name: verdict for verdict in try_all(names, jobs=1)}
    together = {verdict.name: verdict for verdict in try_all(iter(names), jobs=2)}
    assert set(alone) == set(names)
    assert together == alone


def test_names_are_read_no_further_than_there_is_work() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "mixed-1"

    verdicts = try_all(endless(), jobs=1)
    next(verdicts)
    assert read == 1


@pytest.fixture
def mutated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger with one of the deliberate bugs of `tests/mutants`."""
    monkeypatch.syspath_prepend(str(MUTANTS))
    mutants = importlib.import_module("page_mutants").PAGE_MUTANTS
    for name in ("page_mutants", "mutant"):
        monkeypatch.delitem(sys.modules, name)
    (mutant,) = (mutant for mutant in mutants if mutant.name == BUG)
    source = Path(sys.modules[Ledger.__module__].__file__ or "").read_text()
    assert source.count(mutant.old) == 1
    module = types.ModuleType("diptych.core.pages.mutated")
    module.__dict__["__name__"] = Ledger.__module__
    exec(compile(source.replace(mutant.old, mutant.new), mutant.file, "exec"), module.__dict__)
    monkeypatch.setattr(Ledger, "claim_ended", module.__dict__["Ledger"].claim_ended)


@pytest.mark.interpreted
@pytest.mark.usefixtures("mutated")
def test_a_failure_is_shrunk_to_few_requests_workers_and_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "handoff-0"
    whole = scenario(name)
    rule = broken_rule(whole)
    assert rule is not None
    arguments = ["--kinds", "handoff", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path)]
    assert program.main(arguments) == 1
    printed = capsys.readouterr().out
    assert f"python -m diptych.sim --seed {name}" in printed
    path = tmp_path / f"{name}.json"
    assert f"python -m diptych.sim --scenario {path}" in printed
    small = msgspec.json.decode(path.read_bytes(), type=Scenario)
    assert len(whole.requests) > 5
    assert len(whole.faults) > 2
    assert len(small.requests) <= 2
    assert small.faults == ()
    assert len(small.workers) == 2
    assert broken_rule(small) == rule
    assert program.main(["--scenario", str(path)]) == 1
    assert "FAILED" in capsys.readouterr().out


def plan(name: str, **more: object) -> RequestPlan:
    value = RequestPlan(request=name, at_ns=0, prompt=(("a", 5),), lengths=(3,))
    return msgspec.structs.replace(value, **more)


def made(requests: int, faults: tuple[Fault, ...] = ()) -> Scenario:
    workers = (WorkerPlan(name="w-0"), WorkerPlan(name="w-1"))
    return Scenario(workers=workers, requests=tuple(plan(f"r{n}") for n in range(requests)), faults=faults)


def test_parts_that_matter_together_are_kept_and_nothing_else() -> None:
    faults = tuple(Fault(at_ns=n, kind="kill", target=f"w-{n % 2}") for n in range(20))

    def broken(scenario: Scenario) -> str | None:
        names = {request.request for request in scenario.requests}
        times = {fault.at_ns for fault in scenario.faults}
        return "Violation: it" if {"r3", "r11"} <= names and 7 in times else None

    shrinker = Shrinker("Violation: it", broken)
    small = shrinker.shrink(made(16, faults))
    assert [request.request for request in small.requests] == ["r3", "r11"]
    assert [fault.at_ns for fault in small.faults] == [7]
    assert [worker.name for worker in small.workers] == ["w-1"], "the fault's own"
    assert small.requests[0].prompt == (("a", 1),)
    assert shrinker.tries < 150


def test_another_failure_is_not_the_same() -> None:
    def broken(scenario: Scenario) -> str | None:
        return "Violation: it" if len(scenario.requests) > 4 else "Violation: another"

    assert len(Shrinker("Violation: it", broken).shrink(made(9)).requests) == 5


def test_without_time_the_scenario_stays_what_it_was() -> None:
    whole = made(9)
    assert Shrinker("Violation: it", lambda scenario: "Violation: it", limit_s=-1.0).shrink(whole) == whole


def test_what_is_left_out_takes_with_it_what_needs_it() -> None:
    faults = (
        Fault(at_ns=0, kind="kill", target="w-0"),
        Fault(at_ns=0, kind="leave", target="r0"),
        Fault(at_ns=0, kind="lose", target="door-1"),
        Fault(at_ns=0, kind="cut", target="host-0=host-c"),
        Fault(at_ns=0, kind="kill", target="control"),
    )
    whole = msgspec.structs.replace(made(2, faults), doors=("door-0", "door-1"))
    kinds: Callable[[Scenario], list[str]] = lambda held: [fault.kind for fault in held.faults]  # noqa: E731
    assert kinds(with_workers(whole, ("w-1",))) == ["leave", "lose", "cut", "kill"]
    assert kinds(with_requests(whole, whole.requests[1:])) == ["kill", "lose", "cut", "kill"]
    assert kinds(with_doors(whole, ("door-0",))) == ["kill", "leave", "cut", "kill"]


def test_a_reason_names_its_rule() -> None:
    assert rule_of("Violation: wrong token: r1 0 at 3") == "Violation: wrong token"
    assert rule_of("ImpossibleFact: decode-0@1 in running: x") == "ImpossibleFact"


def test_the_program_reports_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--seeds", "4", "--jobs", "1", "--first", "4"]) == 0
    printed = capsys.readouterr().out
    assert "4 seeds passed, 0 failed" in printed
    assert "took effect" in printed
    assert program.main(["--seed", "3"]) == 0
    outcome = try_scenario("", scenario("mixed-3")).outcome
    assert outcome is not None
    assert f"digest {outcome.digest}" in capsys.readouterr().out


def test_the_program_goes_on_until_there_were_enough_requests(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--requests", "30", "--jobs", "1", "--kinds", "mixed"]) == 0
    words = capsys.readouterr().out.split()
    assert int(words[words.index("requests,") - 1]) >= 30


def test_a_kind_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--kinds", "mixed,sunny"])
    assert "no kind 'sunny'" in capsys.readouterr().err
