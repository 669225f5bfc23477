from __future__ import annotations

from pathlib import Path

import pytest

from diptych.live.fleet_file import (
    FleetError,
    WorkerGroup,
    default_groups,
    parse_group,
    plan_workers,
    read_fleet_file,
)


@pytest.mark.parametrize(
    ("text", "engine", "format_", "count"),
    [
        ("native", "native", None, 1),
        ("native:int8", "native", "int8", 1),
        ("native:int4x2", "native", "int4", 2),
        ("nativex3", "native", None, 3),
        ("torch:float32x12", "torch", "float32", 12),
    ],
)
def test_short_form(text: str, engine: str, format_: str | None, count: int) -> None:
    group = parse_group(text, "decode")
    assert (group.engine, group.format, group.count, group.role) == (engine, format_, count, "decode")


@pytest.mark.parametrize("text", ["", ":int8", "native:", "NATIVE", "native:int8 x2"])
def test_short_form_errors_name_the_option(text: str) -> None:
    with pytest.raises(FleetError, match=r"--prefill: .*ENGINE"):
        parse_group(text, "prefill")


def test_default_fleet_is_an_unlike_pair_on_two_cores() -> None:
    prefill, decode = plan_workers(default_groups(aggregated=False), [4, 6])
    assert (prefill.name, prefill.format, prefill.core) == ("prefill-0", "int8", 4)
    assert (decode.name, decode.format, decode.core) == ("decode-0", "int4", 6)


def test_aggregated_is_one_worker() -> None:
    (worker,) = plan_workers(default_groups(aggregated=True), [0])
    assert (worker.name, worker.role) == ("both-0", "both")


def test_workers_of_one_name_are_numbered_through_and_cores_dealt_in_turn() -> None:
    groups = (
        WorkerGroup(role="decode", count=2),
        WorkerGroup(role="decode", format="int8"),
        WorkerGroup(role="prefill", name="fast"),
    )
    plans = plan_workers(groups, [0, 1])
    assert [plan.name for plan in plans] == ["decode-0", "decode-1", "decode-2", "fast-0"]
    assert [plan.core for plan in plans] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("group", "field"),
    [
        (WorkerGroup(role="encode"), "worker.role"),
        (WorkerGroup(role="both", engine="cuda"), "worker.engine"),
        (WorkerGroup(role="both", format="int2"), "worker.format"),
        (WorkerGroup(role="both", count=0), "worker.count"),
        (WorkerGroup(role="both", count=65), "worker.count"),
        (WorkerGroup(role="both", share=0), "worker.share"),
        (WorkerGroup(role="both", name="A b"), "worker.name"),
    ],
)
def test_errors_name_the_field(group: WorkerGroup, field: str) -> None:
    with pytest.raises(FleetError, match=field):
        plan_workers((group,), [0])


def test_a_fleet_has_workers_and_not_too_many() -> None:
    with pytest.raises(FleetError, match="0 workers"):
        plan_workers((), [0])
    with pytest.raises(FleetError, match="66 workers"):
        plan_workers((WorkerGroup(role="both", count=33), WorkerGroup(role="decode", count=33)), [0])


def test_scripted_and_real_workers_do_not_mix() -> None:
    groups = (WorkerGroup(role="prefill", engine="scripted"), WorkerGroup(role="decode"))
    with pytest.raises(FleetError, match=r"worker\.engine"):
        plan_workers(groups, [0, 1])


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(
        'model = "m.gguf"\nport = 9000\n[[worker]]\nrole = "prefill"\nformat = "int8"\n'
        '[[worker]]\nrole = "decode"\ncount = 2\nshare = 3\n[worker.options]\nstep_ns = 5\n'
    )
    fleet = read_fleet_file(path)
    assert (fleet.model, fleet.port) == ("m.gguf", 9000)
    assert fleet.worker[1] == WorkerGroup(role="decode", count=2, share=3, options={"step_ns": 5})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model =", "fleet.toml"),
        ("prot = 1", "prot"),
        ("port = 'x'", "port"),
        ("[[worker]]\nengine = 'native'", "role"),
    ],
)
def test_toml_errors_name_file_or_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    with pytest.raises(FleetError, match=named):
        read_fleet_file(path)
