"""Groups with their undisturbed answers, found once for each kind of fleet and handed out in turn."""

from __future__ import annotations

from collections.abc import Callable

from asked import Group, is_long, reference
from fleet_harness import fleet
from stage import Setting


class Wardrobe:
    """Long groups are those whose first prompt takes more than one step."""

    def __init__(self, groups: list[Group]) -> None:
        self._groups = {
            long: [group for group in groups if is_long(group.number) is long] for long in (True, False)
        }
        self._next = {True: 0, False: 0}

    def take(self, *, long: bool) -> Group:
        """The one that was asked longest ago: much of it is no longer cached."""
        groups = self._groups[long]
        self._next[long] += 1
        return groups[self._next[long] % len(groups)]


def undisturbed(setting: Setting, count: int, tell: Callable[[], None]) -> Wardrobe:
    """Asks `count` groups of a fleet of this setting that nothing happens to."""
    with fleet(*setting.arguments, "--lease", str(setting.lease_s)) as running:
        running.wait_all_ready(len(setting.workers))
        model = running.model()
        groups = []
        for number in range(count):
            groups.append(reference(running, model, number, setting.size))
            tell()
    return Wardrobe(groups)
