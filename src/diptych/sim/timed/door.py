"""The door as far as time goes: it tells control of requests and of where broken streams stand."""

from __future__ import annotations

from collections.abc import Callable

from diptych.core import facts
from diptych.core.ids import CONTROL, Attempt, RequestId
from diptych.sim import events
from diptych.sim.driver import Happening, Outside
from diptych.sim.events import Violation
from diptych.sim.timed.stream import Stream
from diptych.sim.workloads.ask import Ask

DOOR = "door-0"


class Door:
    def __init__(
        self,
        model: str,
        page_tokens: int,
        streams: dict[RequestId, Stream],
        outside: Outside,
        closed: Callable[[Stream], None],
    ) -> None:
        self.model = model
        self.page_tokens = page_tokens
        self.streams = streams
        """Open ones, which step loops bring up to date."""
        self.outside = outside
        self.closed = closed

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        row = _ROWS.get(type(event))
        if row is None:
            raise Violation("door cannot take it", repr(event))
        row(self, now_ns, event)

    def ask(self, now_ns: int, ask: Ask, delay_ns: int = 0) -> None:
        """A client sends its request, which is here and read after `delay_ns`."""
        if ask.request in self.streams:
            raise Violation("two requests of one name", ask.request)
        self.streams[ask.request] = Stream(ask, now_ns)
        text = ask.text
        arrived = facts.RequestArrived(
            request=ask.request,
            door=DOOR,
            model=self.model,
            prompt_tokens=text.tokens,
            page_hashes=text.page_hashes(self.page_tokens, text.tokens - 1),
            tokens_max=ask.tokens_max,
            sequences=len(ask.outputs),
            tenant=ask.tenant,
            priority=ask.priority,
        )
        if delay_ns:
            at_ns = self.outside.last_arrival_ns(DOOR, CONTROL) + delay_ns
            self.outside.at(at_ns, DOOR, CONTROL, arrived)
        else:
            self.outside.send(DOOR, CONTROL, arrived)

    def _joined(self, now_ns: int, event: events.ControlUp) -> None:
        self.outside.send(DOOR, CONTROL, facts.DoorJoined(door=DOOR))

    def _routed(self, now_ns: int, event: facts.RequestRouted) -> None:
        """Where a request went is of no account here: tokens are counted where they are made."""

    def _broken(self, now_ns: int, event: events.PauseFrame | facts.StreamInterrupted) -> None:
        """What the attempt's worker sent came the same way at the same speed, so it is all here."""
        stream = self.streams.get(event.request)
        attempt: Attempt | None = event.attempt
        if stream is None or attempt is None or attempt <= stream.drained:
            return
        stream.drained = attempt
        fact = facts.StreamDrained(
            request=event.request,
            attempt=attempt,
            starts=stream.starts(self.page_tokens),
            finished=stream.finished(),
        )
        self.outside.send(DOOR, CONTROL, fact)

    def _ended(self, now_ns: int, event: facts.RequestEnded | facts.RequestRejected) -> None:
        stream = self.streams.pop(event.request, None)
        if stream is None:
            return
        if isinstance(event, facts.RequestRejected):
            stream.failure = event.kind
        else:
            stream.record = event.record
            stream.failure = event.failure
        if stream.failure is None and not stream.complete(now_ns):
            raise Violation("the end came before the last token", event.request)
        self.closed(stream)


_ROWS: dict[type[Happening], Callable[..., None]] = {
    events.ControlUp: Door._joined,
    events.PauseFrame: Door._broken,
    facts.RequestRouted: Door._routed,
    facts.StreamInterrupted: Door._broken,
    facts.RequestEnded: Door._ended,
    facts.RequestRejected: Door._ended,
}
