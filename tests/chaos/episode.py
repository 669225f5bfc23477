"""One fault in the life of a group of streams, and what became of them, of the fleet and of its pages."""

from __future__ import annotations

import time
from collections.abc import Callable

import asked
import msgspec
from asked import Answer, Body, Group
from fleet_harness import Stream, eventually, is_alive
from logs import prompt_work
from moments import Moment, await_moment, was_hit
from slow import SlowStream
from stage import WHOLE_S, Stage

LIMIT_S = 120.0
"""A client that hears nothing for so long hangs."""
STREAMS = 5
SOURCE, TARGET = "source", "target"
"""Names of the workers that the aimed stream was given to."""
_ASKED = {SOURCE: "PrefillRequested", TARGET: "TargetRequested"}


class Scene:
    """What a fault may act on."""

    def __init__(self, stage: Stage, group: Group, name: str) -> None:
        self.stage = stage
        self.group = group
        self.name = name
        self.pids = stage.pids()
        self.below = stage.orphans()
        self.streams: list[Stream] = []
        self.left: set[str] = set()
        """Requests whose clients are made to leave: no answer is expected."""
        self.start = stage.logs.read()
        stage.mark()

    def ask(self, fault: Fault) -> None:
        for index, body in enumerate(self.group.bodies[: fault.streams]):
            kind = SlowStream if index in fault.slow else Stream
            self.streams.append(self._open(kind, body | fault.fields, f"{self.name}-{index}"))

    def _open(self, kind: type[Stream], body: Body, name: str) -> Stream:
        named = {"model": self.stage.model} | body
        return kind(self.stage.fleet.port, named, request_id=name, limit_s=LIMIT_S)

    @property
    def aimed(self) -> Stream:
        return self.streams[0]

    def pairs(self) -> list[tuple[Stream, Answer]]:
        return list(zip(self.streams, self.group.answers, strict=False))

    def worker(self, name: str) -> str:
        """The name of a worker, which may be given by what it does for the aimed stream."""
        kind, request = _ASKED.get(name), self.aimed.request_id
        if kind is None:
            return name
        for record in self.stage.logs.records[self.start :]:
            for action in record.actions:
                if action[0] == "Send" and action[2][0] == kind and request in action[2]:
                    to: str = action[1]
                    return to.partition("@")[0]
        raise LookupError(f"{request} was given to no {name}")


def _nothing(scene: Scene) -> list[str]:
    return []


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something bad that one can do to a fleet."""

    name: str
    strike: Callable[[Scene], None] = lambda scene: None
    moments: tuple[Moment, ...]
    victims: frozenset[str] = frozenset()
    """Names of the processes that may end by it; for any other to end is a failure."""
    lift: Callable[[Scene], None] = lambda scene: None
    """Undoes what is left of it when all clients are served."""
    renewed: frozenset[str] = frozenset()
    """Processes that `lift` ends."""
    after: Callable[[Scene], list[str]] = _nothing
    """More that must be so, in words where it is not."""
    streams: int = STREAMS
    """So many of a group's bodies are asked."""
    fields: Body = {}
    """More fields of their bodies."""
    slow: tuple[int, ...] = ()
    """Clients that read nothing until all the others are served."""
    may_break: bool = False
    """Streams may break off (the process between clients and fleet dies), if they end cleanly."""
    ends_fleet: bool = False
    """Nothing of the fleet is to be left."""
    exact: bool = True
    """Answers must be the undisturbed ones."""
    hang: bool = False
    """It is noticed by a lease that runs out."""
    needs_disk: bool = False
    """The logs are to lie on a small disk of their own."""
    must_hit: bool = True
    """Tried again where its moment was missed."""


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    fault: str
    setting: str
    moment: str
    hit: bool
    """The moment was met; an episode that missed it counts for its failures only."""
    touched: int
    """Streams that were open."""
    lost: list[str]
    different: list[str]
    wrong: list[str]
    """Everything else that should not be so: a healthy process killed, pages away, an orphan."""
    delays_s: list[float]
    work_s: list[float]
    """For each delay the prompt work that was ordered after the fault, up to this client's own."""
    allowed_s: float
    """What a delay may add to the work, where that is judged."""
    seconds: float

    @property
    def late(self) -> list[float]:
        """By how much delays passed what is allowed."""
        pairs = zip(self.delays_s, self.work_s, strict=True)
        return [over for delay, work in pairs if (over := delay - work - self.allowed_s) > 0]


GAP_S = 0.15
"""What a kill may cost beyond the work that has to be done again."""


def play(stage: Stage, fault: Fault, moment: Moment, group: Group, name: str) -> Episode:
    """Asks the group, strikes at the moment of its first stream, and judges when all is quiet again."""
    begun_s = time.monotonic()
    scene = Scene(stage, group, name)
    rates_s = stage.rates_s()
    scene.ask(fault)
    await_moment(moment, stage.logs, scene.aimed, scene.start)
    touched = [one for one in scene.streams if not one.finished]
    struck = stage.logs.read()
    hit = was_hit(moment, stage.logs, scene.aimed.request_id, scene.start) or not fault.must_hit
    struck_s = time.monotonic()
    fault.strike(scene)
    lost, different = _serve(scene, fault)
    wrong = [_killed(scene, fault.victims)]
    fault.lift(scene)
    if fault.ends_fleet:
        wrong.append(_orphans(scene))
    else:
        wrong += [stage.settle(), _killed(scene, fault.victims | fault.renewed), *_records(scene, fault)]
    served = [(stream, answer) for stream, answer in scene.pairs() if stream in touched and stream.complete]
    delays_s, work_s = _delays_s(stage, served, struck, struck_s, rates_s)
    return Episode(
        fault=fault.name,
        setting=stage.setting.name,
        moment=moment.name,
        hit=hit,
        touched=len(touched),
        lost=lost,
        different=different,
        wrong=[words for words in wrong + (fault.after(scene) if hit else []) if words],
        delays_s=delays_s,
        work_s=work_s,
        allowed_s=GAP_S + (stage.setting.lease_s if fault.hang else 0.0),
        seconds=time.monotonic() - begun_s,
    )


def _serve(scene: Scene, fault: Fault) -> tuple[list[str], list[str]]:
    """Reads all streams to their ends: (why some have no whole answer, in what some differ)."""
    broken: list[str] = []
    different: list[str] = []
    for stream, answer in sorted(scene.pairs(), key=lambda pair: isinstance(pair[0], SlowStream)):
        if isinstance(stream, SlowStream):
            stream.read_on()
        try:
            stream.result()
        except AssertionError as error:
            broken.append(f"{stream.request_id}: {error}")
            continue
        if stream.request_id in scene.left:
            continue
        lost = asked.lost(stream)
        if lost and not fault.may_break:
            broken.append(lost)
        elif fault.exact:
            words = asked.not_a_start(stream, answer) if lost else asked.difference(stream, answer)
            different += [words] if words else []
    return broken, different


def _killed(scene: Scene, victims: frozenset[str]) -> str:
    """Healthy processes that ended."""
    allowed = {scene.worker(name) for name in victims}
    unexpected = sorted(scene.stage.gone() - allowed)
    told = ", ".join(f"{name} ({scene.stage.why(name)})" for name in unexpected)
    return f"ended for no fault of theirs: {told}" if unexpected else ""


def _orphans(scene: Scene) -> str:
    try:
        eventually(lambda: not any(map(is_alive, scene.below)), "no process left", WHOLE_S)
    except AssertionError:
        return f"orphans: {[pid for pid in scene.below if is_alive(pid)]}"
    return ""


def _records(scene: Scene, fault: Fault) -> list[str]:
    """What the requests' records say against what their clients got."""
    wrong = []
    for stream in scene.streams:
        if not stream.complete or stream.request_id in scene.left or fault.may_break:
            continue
        record = scene.stage.fleet.trace(stream.request_id)
        if fault.exact and record["exact"] is False:
            wrong.append(f"{stream.request_id}: its record says that it is not exact")
        if stream.usage and record["output_tokens"] != stream.usage["completion_tokens"]:
            wrong.append(f"{stream.request_id}: {record['output_tokens']} tokens by its record")
    return wrong


def _delays_s(
    stage: Stage,
    served: list[tuple[Stream, Answer]],
    struck: int,
    struck_s: float,
    rates_s: dict[str, float],
) -> tuple[list[float], list[float]]:
    """Each client's extra delay, and the work ahead of it: what was in hand when the fault came, its own
    and that of all who went on before."""
    if not served:
        return [], []
    work_s = _work_s(stage, struck, rates_s)
    delays_s, ahead_s, sum_s = [], [], _in_hand_s(stage, struck, rates_s)
    for stream, answer in sorted(served, key=lambda pair: _next_arrival_s(pair[0], struck_s)):
        sum_s += work_s.get(stream.request_id, 0.0)
        delays_s.append(asked.extra_delay_s(stream, answer, struck_s))
        ahead_s.append(sum_s)
    return delays_s, ahead_s


def _next_arrival_s(stream: Stream, struck_s: float) -> float:
    return next((at for at in stream.arrivals_s if at > struck_s), struck_s)


def _work_s(stage: Stage, struck: int, rates_s: dict[str, float]) -> dict[str, float]:
    """Seconds of prompt work that workers ordered for each request after the fault."""
    stage.logs.read()
    work_s: dict[str, float] = {}
    for record in stage.logs.records[struck:]:
        rate_s = rates_s.get(record.machine.partition("@")[0], 0.0)
        for request, count in prompt_work(record):
            work_s[request] = work_s.get(request, 0.0) + count * rate_s
    return work_s


def _in_hand_s(stage: Stage, struck: int, rates_s: dict[str, float]) -> float:
    """Seconds of prompt work in the longest run that was going on at the fault: nothing else begins on
    that worker before it has ended."""
    in_hand_s: dict[str, float] = {}
    for record in stage.logs.records[:struck]:
        if record.fact[0] == "StepsRan":
            in_hand_s[record.machine] = 0.0
        if any(action[0] == "RunSteps" for action in record.actions):
            rate_s = rates_s.get(record.machine.partition("@")[0], 0.0)
            in_hand_s[record.machine] = rate_s * sum(count for _, count in prompt_work(record))
    alive = {f"{one['name']}@{one['epoch']}" for one in stage.fleet.status()["workers"]}
    return max((work_s for machine, work_s in in_hand_s.items() if machine in alive), default=0.0)
