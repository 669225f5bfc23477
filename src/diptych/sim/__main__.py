"""`python -m diptych.sim --seeds N [--first K] [--seed K]`: many random scenarios under all checkers."""

from __future__ import annotations

import argparse
import sys
import time

from diptych.sim.run import Failed, Outcome, simulate
from diptych.sim.seeds.mixed import random_scenario


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m diptych.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one only, and print its trace if it fails")
    parser.add_argument("--faultless", action="store_true", help="the same traffic without faults")
    options = parser.parse_args(arguments)
    first, count = (options.first, options.seeds) if options.seed is None else (options.seed, 1)
    outcomes: list[Outcome] = []
    failures: list[Failed] = []
    begun = time.monotonic()
    for seed in range(first, first + count):
        try:
            outcomes.append(simulate(random_scenario(seed, faultless=options.faultless)))
        except Failed as failure:
            failures.append(failure)
            if options.seed is not None:
                print("\n".join(failure.lines))
            again = " --faultless" if options.faultless else ""
            print(f"FAILED {failure.reason}\n  python -m diptych.sim --seed {seed}{again}", flush=True)
    report(outcomes, len(failures), time.monotonic() - begun)
    return 1 if failures else 0


def report(outcomes: list[Outcome], failed: int, seconds: float) -> None:
    endings: dict[str, int] = {}
    splits: dict[str, int] = {}
    for outcome in outcomes:
        for name, count in outcome.failures.items():
            endings[name] = endings.get(name, 0) + count
        for name, count in outcome.splits.items():
            splits[name] = splits.get(name, 0) + count
    print(
        f"{len(outcomes)} seeds passed, {failed} failed in {seconds:.1f} s: "
        f"{sum(o.requests for o in outcomes)} requests, {sum(o.whole for o in outcomes)} whole "
        f"({sum(o.resumed for o in outcomes)} after more than one attempt), "
        f"{sum(o.events for o in outcomes)} events"
    )
    print(f"  other ends: {endings or 'none'}; splits: {splits}")
    if len(outcomes) == 1:
        print(f"  digest {outcomes[0].digest}")


if __name__ == "__main__":
    sys.exit(main())
