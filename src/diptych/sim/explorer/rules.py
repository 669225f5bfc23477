"""What must hold in every state, and at quiet. The pool checks each read, write, offer, claim and gift as
it happens, the door each token and each end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diptych.core.control import ControlPlane
from diptych.core.ids import Incarnation
from diptych.sim.checkers.books import check_worker
from diptych.sim.events import Violation

if TYPE_CHECKING:
    from diptych.sim.explorer.world import World

__all__ = ["check_control", "check_quiet", "check_worker"]


def check_control(control: ControlPlane) -> None:
    control.check()


def check_quiet(world: World) -> None:
    """Nothing is open: pages are home, every request has its end, nothing is held but caches."""
    from diptych.sim.explorer.world import DOOR, Desk, Seat

    pool = world.pool
    for number, page in enumerate(pool.pages):
        lost = page.owner is None or page.owner not in pool.alive
        if lost and world.configuration.restart:
            raise Violation("page not home", f"page {number} of {page.owner}, {page.giver} {page.receiver}")
        if page.loans:
            raise Violation("loan left open", f"page {number}: {dict(page.loans)}")
    open_offers = [offer for offer in pool.offers() if offer[0] in pool.alive]
    if open_offers:
        raise Violation("offer left open", repr(open_offers))
    for name, part in world.parts.items():
        if isinstance(part, Seat):
            _check_seat(world, name, part)
        elif isinstance(part, Desk):
            if part.control.requests.open:
                raise Violation("request left in control", repr(list(part.control.requests.open)))
            if part.payloads:
                raise Violation("payload left in control", repr(list(part.payloads)))
        elif name == DOOR:
            _check_door(part)


def _check_seat(world: World, name: Incarnation, seat: object) -> None:
    from diptych.sim.explorer.world import Seat, plan_of

    assert isinstance(seat, Seat)
    counts = seat.worker.pages()
    if counts.held:
        raise Violation("pages held at quiet", f"{name} {counts}")
    granted = seat.worker.ledger.granted + world.pool.paid_more_than_once(name)
    home = world.configuration.restart and seat.worker.ledger.granted != plan_of(world, name).pages
    if counts.total != granted or home:
        raise Violation("room changed", f"{name} was granted {seat.worker.ledger.granted}, has {counts}")
    ledger = seat.worker.ledger
    if ledger.debts or ledger.owed or ledger.frozen:
        raise Violation("debt left open", f"{name} {ledger.debts} {ledger.owed} {ledger.frozen}")
    for receiver, gifts in ledger.given.items():
        other = world.parts.get(receiver)
        if gifts and not (
            isinstance(other, Seat) and other.worker.ledger.received.get(name, 0) >= gifts[-1][0]
        ):
            raise Violation("gift left under way", f"{name} to {receiver}: {list(gifts)}")
    if seat.loop.streams or seat.loop.run is not None:
        raise Violation("stream left in a step loop", f"{name} {sorted(seat.loop.streams)}")


def _check_door(door: object) -> None:
    from diptych.sim.door import Door

    assert isinstance(door, Door)
    if door.clients:
        raise Violation("request without an end", repr(list(door.clients)))
