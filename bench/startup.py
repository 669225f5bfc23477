"""Time from `diptych serve` to its word that it serves: default fleet, embedded model at hand.

python bench/startup.py [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import sys

from diptych.models.embedded import fetch_embedded
from fleet import Fleet
from prioritised import take_priority
from report import Row, argument_parser, best_and_median, finish


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="starts (3)")
    arguments = parser.parse_args()
    fetch_embedded()
    priority = take_priority()
    seconds: list[float] = []
    for _ in range(arguments.rounds):
        running = Fleet(())
        running.stop()
        seconds.append(running.start_s)
    best, median = best_and_median(seconds, lower_is_better=True)
    rows = [
        Row(name="serve to ready: median", value=median, unit="s", must="<= 5"),
        Row(name="serve to ready: best", value=best, unit="s"),
    ]
    settings = {"rounds": arguments.rounds, "priority": priority}
    return finish("startup", rows, arguments.json, extra={"settings": settings})


if __name__ == "__main__":
    sys.exit(main())
