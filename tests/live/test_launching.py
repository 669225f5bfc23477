from __future__ import annotations

from diptych.live.fleet_file import default_groups, plan_workers
from diptych.live.launching import control_launch
from diptych.live.serve_plan import ServePlan


def test_control_is_told_how_patient_to_be() -> None:
    workers = plan_workers(default_groups(aggregated=True, engine="scripted"), [0])
    plan = ServePlan(model="scripted", workers=workers, lease_ns=7_000_000_000, exact_wait_ns=2_000_000_000)
    config = control_launch(plan, 4).config
    assert config.epoch == 4
    assert (config.lease_ns, config.overrun_ns, config.exact_wait_ns) == (7 * 10**9, 7 * 10**9, 2 * 10**9)
