"""The decode batch against arithmetic: who needs pages when, without looking at everybody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diptych.core import facts
from diptych.core.worker.decode import DecodeBatch
from diptych.core.worker.sequence import Sequence, Target

PAGE = 4


def target(name: str, prompt_tokens: int, tokens_max: int) -> Target:
    border = (prompt_tokens - 1) // PAGE
    asked = facts.TargetRequested(
        request=name,
        attempt=1,
        door="door",
        model="model",
        prompt_tokens=prompt_tokens,
        page_hashes=tuple(b"%d" % page for page in range(border)),
        starts=(facts.SequenceStart(0, 0),),
        tokens_max=tokens_max,
    )
    return Target(asked, 1, 0)


class Pages:
    """Hands out pages until there are none."""

    def __init__(self, free: int) -> None:
        self.free = free

    def take(self, task: Target, sequence: Sequence, positions: int) -> bool:
        missing = -(-positions // PAGE) - task.border - len(sequence.pages)
        if missing > self.free:
            return False
        self.free -= max(0, missing)
        sequence.pages += [0] * max(0, missing)
        return True


JOINERS = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(0, 6)), min_size=1, max_size=5
)


@given(JOINERS, st.integers(1, 9), st.integers(0, 40))
def test_every_member_has_pages_for_every_step_of_every_run(
    joiners: list[tuple[int, int, int]], quantum: int, free: int
) -> None:
    pages = Pages(free)
    batch = DecodeBatch(PAGE, pages.take)
    waiting = [(at, f"r{n}", prompt, most) for n, (prompt, most, at) in enumerate(joiners)]
    known: dict[Sequence, int] = {}
    preempted: list[Sequence] = []

    def preempt() -> None:
        sequence = next(reversed(batch.members))
        batch.leave(sequence)
        pages.free += len(sequence.pages)
        preempted.append(sequence)

    for turn in range(30):
        for _, name, prompt, most in [held for held in waiting if held[0] == turn]:
            task = target(name, prompt, most)
            sequence = task.sequences[0]
            if pages.take(task, sequence, prompt):
                sequence.known = known[sequence] = prompt + 1
                batch.join(task, sequence)
        batch.make_room(preempt)
        if not batch.members:
            continue
        steps = batch.steps_max(quantum)
        assert steps in (1, quantum)
        batch.clock += steps
        for sequence, task in list(batch.members.items()):
            known[sequence] += steps
            limit = task.ask.prompt_tokens + task.ask.tokens_max
            assert sequence.known_before + batch.clock == known[sequence]
            covered = (task.border + len(sequence.pages)) * PAGE
            assert covered >= min(known[sequence] - 1, limit), "a step wrote beyond its pages"
            if known[sequence] >= limit:
                batch.leave(sequence)
                pages.free += len(sequence.pages)
    assert all(sequence not in batch.grown for sequence in preempted)


def test_only_members_that_grew_are_told_to_the_step_loop() -> None:
    batch = DecodeBatch(PAGE, Pages(100).take)
    tasks = [target(name, 8, 40) for name in ("short", "long")]
    for task, pages in zip(tasks, (1, 9), strict=True):
        task.sequences[0].pages = [0] * pages
        task.sequences[0].known = 9
        task.sequences[0].tabled = task.border + pages
        batch.join(task, task.sequences[0])
    batch.make_room(lambda: None)
    assert batch.steps_max(4) == 4
    assert list(batch.grown.values()) == [tasks[0]]
