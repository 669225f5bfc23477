"""From the command line and the fleet file to a plan; what cannot be is named, with exit code 2."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from diptych.cli import main, serve
from diptych.live.fleet_file import FleetError
from diptych.live.serve_plan import ServePlan


def plan(*words: str, cores: tuple[int, ...] = (0, 1)) -> ServePlan:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    return serve.make_plan(parser.parse_args(["serve", *words]), list(cores))


def test_defaults() -> None:
    made = plan()
    assert made.model == "smollm2-135m-instruct"
    assert [(worker.name, worker.format, worker.core) for worker in made.workers] == [
        ("prefill-0", "int8", 0),
        ("decode-0", "int4", 1),
    ]
    assert (made.address, made.port, made.pool_bytes) == ("127.0.0.1", 8000, None)
    assert (made.lease_ns, made.grace_ns) == (3_000_000_000, 10_000_000_000)


def test_one_core_or_aggregated_is_one_worker_for_both_halves() -> None:
    for made in (plan(cores=(3,)), plan("--aggregated")):
        (worker,) = made.workers
        assert (worker.name, worker.role) == ("both-0", "both")


def test_groups_of_workers() -> None:
    made = plan("--prefill", "native:int4", "--decode", "native:int8x2", "--decode", "native")
    assert [(worker.name, worker.format) for worker in made.workers] == [
        ("prefill-0", "int4"),
        ("decode-0", "int8"),
        ("decode-1", "int8"),
        ("decode-2", "int4"),
    ]


def test_scripted_costs_are_in_the_engines_units() -> None:
    made = plan("--scripted", "--scripted-step-us", "1.5", "--scripted-end-every", "9")
    assert made.model == "scripted"
    assert made.workers[0].options == {"step_ns": 1500, "end_every": 9}
    assert made.workers[1].core is None


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('port = 9000\nlease_s = 1.5\nexact_wait_s = 9\npool_mib = 7\n[[worker]]\nrole = "both"\n')
    made = plan("--fleet", str(path), "--port", "9001")
    assert (made.port, made.lease_ns, made.pool_bytes) == (9001, 1_500_000_000, 7 << 20)
    assert made.exact_wait_ns == 9_000_000_000
    assert plan("--fleet", str(path), "--exact-wait", "0.5").exact_wait_ns == 500_000_000
    assert [worker.name for worker in made.workers] == ["both-0"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--port", "70000"), "--port"),
        (("--pool-mib", "0"), "--pool-mib"),
        (("--lease", "0"), "--lease"),
        (("--grace", "-1"), "--grace"),
        (("--lease", "nan"), "--lease"),
        (("--exact-wait", "-1"), "--exact-wait"),
        (("--prefill", "native:int9"), r"worker\.format"),
        (("--prefill", "cuda"), r"worker\.engine"),
        (("--decode", "native:int8x0"), r"worker\.count"),
        (("--aggregated", "--prefill", "native"), "--aggregated"),
        (("--scripted-step-us", "5"), "--scripted"),
        (("--record", "/dev/null/folder"), "--record"),
    ],
)
def test_errors_name_the_option(words: tuple[str, ...], named: str) -> None:
    with pytest.raises(FleetError, match=named):
        plan(*words)


def test_the_record_folder_is_made_and_holds_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    assert plan("--record", str(folder)).record_folder == str(folder)
    assert folder.is_dir()
    (folder / "notes.txt").touch()
    assert plan("--record", str(folder)).record_folder == str(folder)
    (folder / "control@1.cut.jsonl").touch()
    with pytest.raises(FleetError, match=r"--record: .*another run"):
        plan("--record", str(folder))


def test_a_fleet_file_names_all_workers(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[[worker]]\nrole = "both"\n')
    with pytest.raises(FleetError, match="--fleet"):
        plan("--fleet", str(path), "--decode", "native")


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "-1"]) == 2
    assert "--port" in capsys.readouterr().err
    assert main(["serve", "--fleet", "/no/such/file.toml", "--json"]) == 2
    assert '"error"' in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--port", "many"])
    assert caught.value.code == 2
