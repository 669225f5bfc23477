"""What one simulated party tells another, on its way.

Inside a machine messages pass through sockets: delayed, in order, never lost. So they do between machines
as long as nothing befalls any link. Where a scenario has such faults, messages between machines are bodies
of `wire.session` packets, and the weather decides about each packet; a party that dies takes its
unacknowledged messages with it, and its peers hear of the closed socket when something passes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from diptych.core.facts import Fact
from diptych.core.ids import worker_name
from diptych.sim import events
from diptych.sim.driver import Driver, Happening
from diptych.sim.events import Event, Violation
from diptych.sim.faults.tally import Tally
from diptych.sim.network.links import Links
from diptych.sim.network.names import AGENT
from diptych.sim.network.weather import PACKET_KINDS, Weather
from diptych.sim.scenario import MILLISECOND_NS, Scenario
from diptych.wire.session import Packet, Session

NETWORK = "network"
NOTICE_RETRY_NS = 20 * MILLISECOND_NS
RESEND_NS = 40 * MILLISECOND_NS

Body = tuple[Fact | Event, object]
End = tuple[str, str]
"""(owner, peer), each with the number of its life where a name lives more than once."""


class Network:
    def __init__(self, scenario: Scenario, driver: Driver, tally: Tally) -> None:
        self.links = Links(
            scenario.latency_ns, scenario.jitter_ns, scenario.seed, scenario.between_workers_ns
        )
        self.weather = Weather(scenario.seed, tally)
        self.packets = any(fault.kind in PACKET_KINDS for fault in scenario.faults)
        self._hosts = {plan.name: plan.host for plan in scenario.workers}
        self._control_host = scenario.control_host
        self._driver = driver
        self._ends: dict[End, Session[Body]] = {}
        self._armed: dict[End, int] = {}
        self._lives: Counter[str] = Counter()
        self._dead: set[str] = set()
        self._closed: set[End] = set()
        driver.parties[NETWORK] = self

    def machine_of(self, party: str) -> str:
        if party.startswith(AGENT):
            return party.removeprefix(AGENT)
        return self._hosts.get(worker_name(party), self._control_host)

    # ---- messages ---------------------------------------------------------------------------------

    def send(self, now_ns: int, sender: str, receiver: str, event: Happening, payload: object = None) -> None:
        source, target = self.machine_of(sender), self.machine_of(receiver)
        if source == target or not self.packets:
            later_ns = self.weather.passage(now_ns, source, target).later_ns
            arrival_ns = self.links.arrival_ns(now_ns + later_ns, sender, receiver)
            self._driver.at(arrival_ns, sender, receiver, event, payload)
            return
        end = (self._life(sender), self._life(receiver))
        if end in self._closed or end[0] in self._dead:
            return
        packet = self._session(end).send(now_ns, (event, payload))
        self._launch(now_ns, end, [packet])

    def last_arrival_ns(self, sender: str, receiver: str) -> int:
        """When all that was sent so far between the two will have been read, or is lost."""
        return self.links.last_arrival_ns(sender, receiver)

    def closed(self, now_ns: int, dead: str, notices: Mapping[str, Happening]) -> None:
        """The process of `dead` is gone, its sockets with it; who minds is told by an event."""
        source, life = self.machine_of(dead), self._life(dead)
        self._lives[dead] += 1
        self._dead.add(life)
        for end in [end for end in self._ends if end[0] == life]:
            del self._ends[end]
        for receiver, event in notices.items():
            arrival_ns = self.links.arrival_ns(now_ns, dead, receiver)
            if self.packets and self.machine_of(receiver) != source:
                notice = events.NoticeDue(life, receiver, event)
                self._driver.at(arrival_ns, NETWORK, NETWORK, notice)
            else:
                self._driver.at(arrival_ns, dead, receiver, event)

    # ---- packets ----------------------------------------------------------------------------------

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        match event:
            case events.PacketArrived():
                self._arrived(now_ns, (event.target, event.source), event.packet)
            case events.ResendDue():
                self._resend(now_ns, (event.source, event.target))
            case events.NoticeDue():
                self._notice(now_ns, event)
            case _:
                raise Violation("network cannot take it", repr(event))

    def _life(self, name: str) -> str:
        life = self._lives[name]
        return f"{name}~{life}" if life else name

    def _session(self, end: End) -> Session[Body]:
        if end not in self._ends:
            self._ends[end] = Session(resend_ns=RESEND_NS)
        return self._ends[end]

    def _launch(self, now_ns: int, end: End, packets: list[Packet[Body]]) -> None:
        sender, receiver = (life.partition("~")[0] for life in end)
        source, target = self.machine_of(sender), self.machine_of(receiver)
        for packet in packets:
            passage = self.weather.passage(now_ns, source, target)
            arrival_ns = self.links.arrival_ns(now_ns + passage.later_ns, sender, receiver)
            for delay_ns in passage.copies:
                arrived = events.PacketArrived(*end, packet)
                self._driver.at(arrival_ns + delay_ns, NETWORK, NETWORK, arrived)
        self._watch(end)

    def _watch(self, end: End) -> None:
        due_ns = self._ends[end].next_deadline_ns()
        if due_ns is not None and not self._armed.get(end, due_ns + 1) <= due_ns:
            self._armed[end] = due_ns
            self._driver.at(due_ns, NETWORK, NETWORK, events.ResendDue(*end))

    def _arrived(self, now_ns: int, end: End, packet: Packet[Body]) -> None:
        if end[0] in self._dead or end in self._closed:
            return
        due, replies = self._session(end).receive(now_ns, packet)
        if replies:
            self._launch(now_ns, end, replies)
        receiver, sender = (life.partition("~")[0] for life in end)
        for event, payload in due:
            party = self._driver.parties.get(receiver)
            if party is not None and end[0] not in self._dead:
                party.receive(now_ns, sender, event, payload)

    def _resend(self, now_ns: int, end: End) -> None:
        self._armed.pop(end, None)
        session = self._ends.get(end)
        if session is None:
            return
        if end[1] in self._dead and not self._cut(now_ns, end):
            # Its machine answers that nobody is there.
            self._close(end)
            return
        self._launch(now_ns, end, session.deadline_passed(now_ns))

    def _notice(self, now_ns: int, notice: events.NoticeDue) -> None:
        end = (self._life(notice.receiver), notice.dead)
        if end[0] in self._dead:
            return
        if self._cut(now_ns, end):
            self._driver.at(now_ns + NOTICE_RETRY_NS, NETWORK, NETWORK, notice)
            return
        self._close(end)
        party = self._driver.parties.get(notice.receiver)
        if party is not None:
            party.receive(now_ns, notice.dead.partition("~")[0], notice.event, None)

    def _cut(self, now_ns: int, end: End) -> bool:
        return self.weather.cut(now_ns, *(self.machine_of(life.partition("~")[0]) for life in end))

    def _close(self, end: End) -> None:
        self._closed.add(end)
        self._ends.pop(end, None)
