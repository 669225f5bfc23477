"""A simulated door: it holds the clients' token logs and believes only what continues them."""

from __future__ import annotations

from collections.abc import Callable

from diptych.core import facts
from diptych.core.facts import Fact
from diptych.core.ids import CONTROL, Attempt, Incarnation, RequestId
from diptych.core.recipe import Recipe, numerics_at
from diptych.sim import events
from diptych.sim.driver import Happening, Outside
from diptych.sim.events import Frame, Payload, Violation
from diptych.sim.network.names import generation_of
from diptych.sim.scenario import RequestPlan
from diptych.sim.text import Context, page_hashes, stream_tokens


class Client:
    """One open request as its door knows it."""

    def __init__(self, plan: RequestPlan, payload: Payload, arrived: facts.RequestArrived) -> None:
        self.plan = plan
        self.payload = payload
        self.arrived = arrived
        self.tokens: list[list[int]] = [[] for _ in plan.lengths]
        self.reasons: list[str | None] = [None for _ in plan.lengths]
        self.attempt: Attempt | None = None
        self.drained: Attempt = -1
        self.recipe: Recipe = ()
        self.exact = True
        self.recipes: set[Recipe] = set()
        """Of the attempts that tokens were taken from."""
        self.target = ""
        self.gone = False
        self.told_end = False
        self.failure: str | None = None
        self.record: facts.RequestRecord | None = None
        self.first_ns: int | None = None
        self.context: tuple[Recipe, list[Context]] | None = None
        self.slow_ns = 0
        """For each token that it reads; 0 for a client that keeps up."""

    def complete(self) -> bool:
        return all(reason is not None for reason in self.reasons)

    def closed(self) -> bool:
        return self.told_end and (self.gone or self.failure is not None or self.complete())

    def payload_now(self) -> Payload:
        p = self.payload
        emitted = tuple(tuple(tokens) for tokens in self.tokens)
        return Payload(p.salt, p.prompt, p.lengths, p.tokens_max, emitted)

    def finished(self) -> facts.Outputs:
        return tuple(
            (index, len(tokens))
            for index, tokens in enumerate(self.tokens)
            if self.reasons[index] is not None
        )

    def starts(self, page_tokens: int) -> tuple[facts.SequenceStart, ...]:
        shared = (len(self.payload.prompt) - 1) // page_tokens
        result = []
        for index, tokens in enumerate(self.tokens):
            if self.reasons[index] is None:
                known = (self.payload.prompt + tuple(tokens))[:-1]
                hashes = page_hashes(self.payload.salt, known, page_tokens)[shared:]
                result.append(facts.SequenceStart(index, len(tokens), hashes))
        return tuple(result)


class Door:
    def __init__(
        self, name: str, page_tokens: int, outside: Outside, closed: Callable[[Client], None]
    ) -> None:
        self.name = name
        self.page_tokens = page_tokens
        self.outside = outside
        self.closed = closed
        self.alive = True
        self.joined: int | None = None
        """The generation of control it has a socket to."""
        self.newest = 0
        """The last one it had; word of an older one is late."""
        self.closed_workers: set[Incarnation] = set()
        self.clients: dict[RequestId, Client] = {}
        self.done: dict[RequestId, Client] = {}

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        if isinstance(event, Fact) and generation_of(sender) != self.joined:
            return
        match event:
            case events.Arrival():
                self._arrived(event)
            case events.Departure():
                self.depart(event.request)
            case events.Frame():
                self._frame(now_ns, event)
            case events.PauseFrame():
                self._paused(event.request, event.attempt)
            case events.SocketClosed():
                self.closed_workers.add(event.worker)
                for client in list(self.clients.values()):
                    if client.told_end and client.target == event.worker:
                        self._state_again(client)
            case events.ReadUp():
                self._read_up(event.request)
            case events.DrainRead():
                self._state(event.request, event.attempt)
            case events.ControlUp():
                if event.generation > self.newest:
                    if self.joined is not None:
                        self._control_down()
                    self._join(event.generation)
            case events.ControlDown():
                if event.generation == self.joined:
                    self._control_down()
            case facts.RequestRouted():
                self._routed(event)
            case facts.StreamInterrupted():
                self._interrupted(now_ns, event)
            case facts.RequestEnded() | facts.RequestRejected():
                self._ended(now_ns, event)
            case _:
                raise Violation("door cannot take it", f"{self.name} {event}")

    # ---- clients -----------------------------------------------------------------------------------

    def _arrived(self, event: events.Arrival) -> None:
        plan = event.plan
        prompt = event.history + prompt_tokens(plan)
        salt = f"{plan.model}/{plan.tenant}"
        payload = Payload(salt, prompt, plan.lengths, plan.tokens_max, tuple(() for _ in plan.lengths))
        arrived = facts.RequestArrived(
            request=plan.request,
            door=self.name,
            model=plan.model,
            prompt_tokens=len(prompt),
            page_hashes=page_hashes(salt, prompt[:-1], self.page_tokens),
            tokens_max=plan.tokens_max,
            sequences=len(plan.lengths),
            tenant=plan.tenant,
            priority=plan.priority,
            logits_from=plan.logits_from,
            seeded=plan.seeded,
            deadline_ns=plan.deadline_ns,
        )
        self.clients[plan.request] = Client(plan, payload, arrived)
        if self.joined is not None:
            self.outside.send(self.name, CONTROL, arrived, payload)

    def depart(self, request: RequestId) -> bool:
        """Its client hangs up; says whether there was one that still waited for something."""
        client = self.clients.get(request)
        if client is None or client.gone or client.complete():
            return False
        client.gone = True
        if self.joined is None or client.told_end:
            self._close(client)
        else:
            self.outside.send(self.name, CONTROL, facts.ClientGone(request=request))
        return True

    # ---- the token log ------------------------------------------------------------------------------

    def _frame(self, now_ns: int, frame: Frame) -> None:
        client = self.clients.get(frame.request)
        if client is None or frame.attempt <= client.drained:
            return
        if client.attempt is not None and frame.attempt < client.attempt:
            return
        if frame.first != len(client.tokens[frame.sequence]) or client.reasons[frame.sequence] is not None:
            return
        if client.gone or client.failure is not None:
            return
        client.attempt = frame.attempt
        self._prove(client, frame)
        client.tokens[frame.sequence].extend(frame.tokens)
        client.recipes.add(frame.recipe)
        client.reasons[frame.sequence] = frame.reason
        if client.first_ns is None:
            client.first_ns = now_ns
        self._close_if_closed(now_ns, client)

    def _prove(self, client: Client, frame: Frame) -> None:
        """The tokens are those that this history gives under the recipe they came with."""
        if client.context is None or client.context[0] != frame.recipe:
            prompt = Context(client.payload.salt, client.payload.prompt, frame.recipe)
            contexts = [prompt.fork() for _ in client.tokens]
            for context, tokens in zip(contexts, client.tokens, strict=True):
                context.extend(tuple(tokens))
            client.context = (frame.recipe, contexts)
        context = client.context[1][frame.sequence]
        for offset, token in enumerate(frame.tokens):
            expected = context.next_token(frame.sequence, frame.first + offset)
            if token != expected:
                raise Violation("wrong token", f"{frame.request} {frame.sequence} at {frame.first + offset}")
            context.extend((token,))
        if frame.reason is not None and len(frame.tokens) + frame.first > client.plan.tokens_max:
            raise Violation("too many tokens", frame.request)

    # ---- resuming -----------------------------------------------------------------------------------

    def _routed(self, event: facts.RequestRouted) -> None:
        client = self.clients.get(event.request)
        if client is None or event.attempt <= client.drained:
            return
        if client.attempt is None or event.attempt >= client.attempt:
            client.attempt = event.attempt
            client.recipe = event.recipe
            client.exact = event.exact
            client.target = event.target

    def _paused(self, request: RequestId, attempt: Attempt) -> None:
        client = self.clients.get(request)
        if client is not None and attempt > client.drained:
            self._state(request, attempt)

    def _interrupted(self, now_ns: int, event: facts.StreamInterrupted) -> None:
        client = self.clients.get(event.request)
        if client is not None:
            until_ns = self.outside.last_arrival_ns(client.target, self.name)
            drained = events.DrainRead(event.request, event.attempt)
            self.outside.at(max(now_ns, until_ns), self.name, self.name, drained)

    def _state(self, request: RequestId, attempt: Attempt) -> None:
        client = self.clients.get(request)
        if client is None:
            return
        client.drained = max(client.drained, attempt)
        if client.attempt is not None and client.attempt <= client.drained:
            client.attempt = None
        if self.joined is None:
            return
        starts = client.starts(self.page_tokens)
        fact = facts.StreamDrained(
            request=request, attempt=attempt, starts=starts, finished=client.finished()
        )
        self.outside.send(self.name, CONTROL, fact, client.payload_now())

    # ---- control ------------------------------------------------------------------------------------

    def _join(self, generation: int) -> None:
        self.joined = self.newest = generation
        # Whose end was told has only tokens to come, from its worker.
        self._say_open([client for client in self.clients.values() if not client.told_end])

    def _say_open(self, clients: list[Client]) -> None:
        opens = []
        for client in clients:
            starts = client.starts(self.page_tokens)
            opens.append(
                facts.OpenRequest(
                    client.arrived, client.attempt, client.recipe, starts, client.finished(), client.exact
                )
            )
        payloads = {client.plan.request: client.payload_now() for client in clients}
        self.outside.send(self.name, CONTROL, facts.DoorJoined(door=self.name, open=tuple(opens)), payloads)

    def _control_down(self) -> None:
        """What the client has in full, or no longer wants, needs no control plane to end."""
        self.joined = None
        for client in list(self.clients.values()):
            if client.complete() or client.gone:
                self._close(client)

    def _ended(self, now_ns: int, event: facts.RequestEnded | facts.RequestRejected) -> None:
        client = self.clients.get(event.request)
        if client is None:
            finished = self.done.get(event.request)
            if finished is not None and finished.told_end:
                raise Violation("ended twice", f"{event.request}: {event}")
            return
        if client.told_end:
            raise Violation("ended twice", f"{event.request}: {event}")
        client.told_end = True
        if isinstance(event, facts.RequestRejected):
            client.failure = event.kind
            if any(client.tokens):
                raise Violation("rejected after tokens", f"{event.request}: {event.kind}")
        else:
            client.record = event.record
            client.failure = event.failure
            if event.failure is not None and "room for" in event.failure and any(client.tokens):
                raise Violation("stream refused", f"{event.request}: {event.failure}")
        self._close_if_closed(now_ns, client)
        if client.target in self.closed_workers:
            self._state_again(client)

    def _state_again(self, client: Client) -> None:
        """Control has let the request go as ended and its worker is dead, but the last tokens were lost on
        the way between their hosts: to control it is one that a door has open and it does not know."""
        if client.plan.request not in self.clients or client.closed():
            return
        client.told_end = False
        client.record = None
        if client.attempt is not None:
            client.drained = max(client.drained, client.attempt)
        if self.joined is not None:
            self._say_open([client])

    def dawdle(self, request: RequestId, delay_ns: int) -> bool:
        """The client reads slowly from now on; what it has not read yet waits at the door."""
        client = self.clients.get(request)
        if client is None or client.gone:
            return False
        client.slow_ns = delay_ns
        return True

    def _close_if_closed(self, now_ns: int, client: Client) -> None:
        if not client.closed():
            return
        if client.slow_ns and not client.gone and client.first_ns is not None:
            tokens = sum(len(output) for output in client.tokens)
            read_ns = max(now_ns, client.first_ns + tokens * client.slow_ns)
            self.outside.at(read_ns, self.name, self.name, events.ReadUp(client.plan.request))
            client.slow_ns = 0
        else:
            self._close(client)

    def _read_up(self, request: RequestId) -> None:
        client = self.clients.get(request)
        if client is not None:
            self._close(client)

    def _close(self, client: Client) -> None:
        self.clients.pop(client.plan.request, None)
        self.done[client.plan.request] = client
        check_record(client)
        self.closed(client)


def check_record(client: Client) -> None:
    """What control says of a finished stream is what its client has."""
    record = client.record
    if record is None or client.failure is not None or client.gone:
        return
    tokens = sum(len(output) for output in client.tokens)
    if record.output_tokens != tokens:
        raise Violation("wrong usage", f"{record.request}: {record.output_tokens}, client has {tokens}")
    used = len(client.payload.prompt) + max(len(output) for output in client.tokens) - 1
    kept = {tuple(numerics_at(recipe, position) for position in range(used)) for recipe in client.recipes}
    if record.exact and len(kept) > 1:
        raise Violation("not exact", f"{record.request} used {client.recipes}")


def prompt_tokens(plan: RequestPlan) -> tuple[int, ...]:
    return tuple(token for stream, count in plan.prompt for token in stream_tokens(stream, count))
