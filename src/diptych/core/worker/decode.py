"""The sequences that decode together, without touching each of them in every run.

The batch counts its steps. A decoding sequence gets one token in each, so it knows
`known_before + clock` tokens, and its pages last up to one certain step: a heap has the next one. A run
costs as much as changes in it, however many sequences it carries.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from diptych.core.worker.sequence import Sequence, Target

TakePages = Callable[[Target, Sequence, int], bool]
"""Pages for KV of positions below a number, or False where there are none."""


class DecodeBatch:
    """Knows how long pages last; where more come from is the caller's matter."""

    def __init__(self, page_tokens: int, take_pages: TakePages) -> None:
        self.page_tokens = page_tokens
        self.take_pages = take_pages
        self.clock = 0
        """Steps that the batch has run in all."""
        self.members: dict[Sequence, Target] = {}
        self.grown: dict[Sequence, Target] = {}
        """Members with pages that the step loop does not know of."""
        self._ends: list[tuple[int, int, Sequence]] = []
        """(last step that the pages last for, serial, member); outdated where the member says otherwise."""
        self._serial = 0

    def join(self, task: Target, sequence: Sequence) -> None:
        sequence.decoding = True
        sequence.known_before = sequence.known - self.clock
        self.members[sequence] = task
        if sequence.tabled < task.border + len(sequence.pages):
            # Its first step found shared pages that stood in the tree already: its table changes.
            self.grown[sequence] = task
        self._watch(task, sequence)

    def leave(self, sequence: Sequence) -> None:
        sequence.decoding = False
        self.members.pop(sequence, None)
        self.grown.pop(sequence, None)

    def _watch(self, task: Target, sequence: Sequence) -> None:
        """A step at clock c writes position `known_before + c - 1`; nothing is written beyond the limit."""
        covered = (task.border + len(sequence.pages)) * self.page_tokens
        limit = task.ask.prompt_tokens + task.ask.tokens_max
        sequence.lasts = None if covered >= limit else covered - sequence.known_before
        if sequence.lasts is not None:
            self._serial += 1
            heappush(self._ends, (sequence.lasts, self._serial, sequence))

    def _short(self, steps: int) -> Sequence | None:
        """A member whose pages do not last for so many steps, the shortest first."""
        ends = self._ends
        while ends and ends[0][0] < self.clock + steps - 1:
            lasts, _, sequence = ends[0]
            if sequence.decoding and sequence.lasts == lasts:
                return sequence
            heappop(ends)
        return None

    def _extend(self, sequence: Sequence, steps: int) -> bool:
        task = self.members[sequence]
        limit = task.ask.prompt_tokens + task.ask.tokens_max
        positions = min(sequence.known_before + self.clock + steps - 1, limit)
        if not self.take_pages(task, sequence, positions):
            return False
        self.grown[sequence] = task
        self._watch(task, sequence)
        return True

    def make_room(self, preempt: Callable[[], None]) -> None:
        """Pages for one more step of every member; `preempt` lets go of somebody's."""
        if not self._ends or self._ends[0][0] >= self.clock:
            return
        while (sequence := self._short(1)) is not None:
            if not self._extend(sequence, 1):
                preempt()

    def steps_max(self, quantum: int) -> int:
        """`quantum` where pages for so many steps are to be had without preempting, else one. Where there
        are plenty, who needs some gets those of the next run too."""
        if not self._ends or self._ends[0][0] >= self.clock + quantum - 1:
            return quantum
        while (sequence := self._short(quantum)) is not None:
            if not (self._extend(sequence, 2 * quantum) or self._extend(sequence, quantum)):
                return 1
        return quantum
