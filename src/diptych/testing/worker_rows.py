"""What every worker must do, whoever schedules inside it: the properties that `check_worker` runs.

The examiner plays everybody else: control, a door, a prefill worker and a decode worker of the same
pool. It owns the pages that the worker under examination was not granted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from diptych.core import facts
from diptych.core.actions import Send
from diptych.core.facts import Fact
from diptych.core.ids import Pages, from_extents
from diptych.core.recipe import OPEN_END, Recipe, join
from diptych.testing.trial import require
from diptych.testing.worker_seat import WorkerSeat

F = TypeVar("F", bound=Fact)
GRANTED = 64
PEER = "examiner@1"
OTHER = "other@1"
TOKENS_MAX = 6


class WorkerTrial:
    """One fresh worker, granted pages [0, 64) of a pool whose other pages are the examiner's."""

    def __init__(self, seat: WorkerSeat, model: str) -> None:
        self.seat = seat
        self.model = model
        self.page_tokens = seat.page_tokens
        self.recipe: Recipe = join((seat.numerics[0], OPEN_END))
        self.said: list[Send] = []
        self.tell(facts.ControlJoined(epoch=1))
        self.tell(facts.PagesGranted(pages=((0, GRANTED),), room=GRANTED))

    def tell(self, fact: Fact) -> list[Send]:
        said = self.seat.tell(fact)
        self.said += said
        self.seat.check()
        return said

    def midway(self, fact: Fact, then: Fact) -> list[Send]:
        said = self.seat.tell_midway(fact, then)
        self.said += said
        self.seat.check()
        return said

    def hashes(self, request: str, pages: int) -> tuple[bytes, ...]:
        return tuple(f"{request}/{page}".encode() for page in range(pages))

    def target(self, request: str = "r", attempt: int = 1, *, pages: int = 4, **more: object) -> Fact:
        values: dict[str, object] = {
            "request": request,
            "attempt": attempt,
            "door": "door",
            "model": self.model,
            "prompt_tokens": pages * self.page_tokens + 2,
            "page_hashes": self.hashes(request, pages),
            "starts": (facts.SequenceStart(0, 0),),
            "tokens_max": TOKENS_MAX,
        }
        return facts.TargetRequested(**(values | more))  # type: ignore[arg-type]

    def fixed(self, split: int, source: str | None, request: str = "r", attempt: int = 1) -> Fact:
        return facts.RecipeFixed(
            request=request, attempt=attempt, recipe=self.recipe, split=split, source=source
        )

    def prefill(self, pages: int, held: int = 0, request: str = "r", attempt: int = 1) -> Fact:
        return facts.PrefillRequested(
            request=request,
            attempt=attempt,
            model=self.model,
            page_hashes=self.hashes(request, pages),
            held_tokens=held * self.page_tokens,
            split=pages * self.page_tokens,
            recipe=self.recipe,
            target=PEER,
        )

    def offer(self, pages: Pages, first_page: int = 0, request: str = "r", attempt: int = 1) -> Fact:
        return facts.PagesOffered(
            request=request, attempt=attempt, sender=PEER, first_page=first_page, pages=pages
        )

    def release(self, request: str = "r", attempt: int = 1) -> Fact:
        return facts.RequestReleased(request=request, attempt=attempt)

    def answer(self, offer: facts.PagesOffered, serial: int) -> Fact:
        """The examiner claims all that was offered, and pays with its own pages."""
        deposit = tuple(range(100 + 100 * serial, 100 + 100 * serial + len(offer.pages)))
        return facts.OfferAnswered(
            request=offer.request,
            attempt=offer.attempt,
            sender=PEER,
            first_page=offer.first_page,
            kept=offer.pages,
            deposit=deposit,
            serial=serial,
        )

    def home(self) -> None:
        held = self.seat.counts().held
        require(held == 0, f"{held} pages are still held when nothing is left to do")


WorkerProperty = Callable[[WorkerTrial], None]


def heard(said: list[Send], kind: type[F]) -> list[F]:
    return [send.fact for send in said if isinstance(send.fact, kind)]


def one(said: list[Send], kind: type[F]) -> F:
    found = heard(said, kind)
    require(len(found) == 1, f"says {len(found)} {kind.__name__} where one is due")
    return found[0]


def none(said: list[Send], *kinds: type[Fact]) -> None:
    for kind in kinds:
        require(not heard(said, kind), f"says {kind.__name__} where it must not")


def introduces_itself(trial: WorkerTrial) -> None:
    joined = one(trial.said, facts.WorkerJoined)
    require(joined.worker == trial.seat.name, f"joins as {joined.worker}, is {trial.seat.name}")
    require(joined.room == 0 and not joined.streams, "a fresh worker owns nothing and streams nothing")
    require(trial.model in joined.models, f"does not announce the model {trial.model}")
    require(len(joined.formats) == len(joined.numerics), "names formats and numerics of different number")


def serves_alone(trial: WorkerTrial) -> None:
    reserved = one(trial.tell(trial.target()), facts.TargetReserved)
    require(reserved.held_tokens == 0, "holds tokens it never computed")
    said = trial.tell(trial.fixed(0, None))
    one(said, facts.StreamStarted)
    ended = one(said, facts.StreamEnded)
    require(len(ended.outputs) == 1, "ends with another number of sequences than were asked for")
    require(0 < ended.outputs[0][1] <= TOKENS_MAX, f"emits {ended.outputs[0][1]} of {TOKENS_MAX} tokens")
    trial.home()


def holds_what_it_computed(trial: WorkerTrial) -> None:
    trial.tell(trial.target())
    trial.tell(trial.fixed(0, None))
    again = one(trial.tell(trial.target(attempt=2)), facts.TargetReserved)
    require(again.held_tokens == 4 * trial.page_tokens, f"holds {again.held_tokens} tokens of its cache")
    require(
        again.held == join((trial.seat.numerics[0], again.held_tokens)), f"says {again.held} computed them"
    )
    trial.tell(trial.release(attempt=2))
    trial.home()


def refuses_what_never_fits(trial: WorkerTrial) -> None:
    refused = one(trial.tell(trial.target(tokens_max=GRANTED * trial.page_tokens)), facts.TargetRefused)
    require(refused.needed_tokens > refused.limit_tokens > 0, "refuses without a limit that is passed")
    trial.home()


def reads_offered_pages_where_they_lie(trial: WorkerTrial) -> None:
    trial.tell(trial.target())
    trial.tell(trial.fixed(4 * trial.page_tokens, PEER))
    first = one(trial.tell(trial.offer((70, 71))), facts.OfferAnswered)
    require(first.kept == (70, 71), f"claims {first.kept} of the offered (70, 71)")
    said = trial.tell(trial.offer((72, 73), first_page=2))
    second = one(said, facts.OfferAnswered)
    for answer in (first, second):
        paid = len(answer.deposit) + len(answer.released)
        require(paid == len(answer.kept), "pays another number of pages than it claims")
        require(all(page < GRANTED for page in answer.deposit), "pays with pages it does not own")
    require(first.serial != second.serial, "numbers two deposits alike")
    one(said, facts.StreamEnded)
    trial.home()


def offers_every_page_once(trial: WorkerTrial) -> None:
    said = trial.tell(trial.prefill(pages=6))
    offers = heard(said, facts.PagesOffered)
    require(offers, "offers nothing")
    none(said, facts.PrefillFinished)
    end = 0
    for offer in offers:
        require(offer.first_page == end, f"offers from page {offer.first_page}, {end} is next")
        require(all(page < GRANTED for page in offer.pages), "offers pages it does not own")
        end += len(offer.pages)
    require(end == 6, f"offers {end} of 6 pages")
    for serial, offer in enumerate(offers, 1):
        said = trial.tell(trial.answer(offer, serial))
    finished = one(said, facts.PrefillFinished)
    require(finished.handoff_pages == 6, f"reports {finished.handoff_pages} of 6 pages handed over")
    trial.home()


def pays_deposits_back(trial: WorkerTrial) -> None:
    offers = heard(trial.tell(trial.prefill(pages=4)), facts.PagesOffered)
    for serial, offer in enumerate(offers, 1):
        trial.tell(trial.answer(offer, serial))
    pages = tuple(page for offer in offers for page in offer.pages)
    given = heard(trial.tell(facts.ClaimReleased(sender=PEER, pages=pages)), facts.PagesGiven)
    require(given[-1:] != [] and given[-1].taken == len(offers), "does not say which deposits have arrived")
    back = [page for gift in given for page in gift.pages]
    require(len(back) == len(pages), f"pays {len(back)} pages back for {len(pages)}")
    require(len(set(back)) == len(back), "pays with the same page twice")
    trial.home()


def lets_go_in_every_state(trial: WorkerTrial) -> None:
    trial.tell(trial.target("reserved"))
    trial.tell(trial.release("reserved"))
    trial.tell(trial.target("fetching"))
    trial.tell(trial.fixed(4 * trial.page_tokens, PEER, "fetching"))
    trial.tell(trial.offer((80,), request="fetching"))
    trial.tell(trial.release("fetching"))
    trial.tell(trial.target("running"))
    said = trial.midway(trial.fixed(0, None, "running"), trial.release("running"))
    none(said, facts.StreamEnded)
    said = trial.midway(trial.prefill(4, request="computing"), trial.release("computing"))
    none(said, facts.PrefillFinished)
    trial.home()


def drops_a_prefill_that_waits_for_context(trial: WorkerTrial) -> None:
    asked = one(trial.tell(trial.prefill(pages=4, held=2)), facts.ContextNeeded)
    require(
        (asked.first_page, asked.end_page) == (0, 2), f"asks for pages {asked.first_page}:{asked.end_page}"
    )
    said = trial.tell(trial.release())
    one(said, facts.ContextReturned)
    lent = facts.ContextLent(request="r", attempt=1, sender=PEER, first_page=0, pages=(70, 71))
    none(trial.tell(lent), facts.PagesOffered, facts.PrefillFinished)
    trial.home()


def believes_nothing_of_the_dead(trial: WorkerTrial) -> None:
    """What a lost worker had still on its way is no offer any more: its pages may be anybody's."""
    trial.tell(trial.target())
    trial.tell(trial.fixed(4 * trial.page_tokens, PEER))
    trial.tell(facts.PeerLost(worker=PEER))
    trial.tell(facts.EstateSettled(lost=PEER, inherited=()))
    none(trial.tell(trial.offer((70, 71))), facts.OfferAnswered)
    again = one(trial.tell(facts.SourceLost(request="r", attempt=1)), facts.TargetReserved)
    require(again.held_tokens == 0, f"holds {again.held_tokens} tokens that a dead worker offered")
    trial.tell(trial.release())
    trial.home()


def answers_late_offers(trial: WorkerTrial) -> None:
    """An offer holds its owner's pages until it is answered, so every offer is, also for the dead."""
    answer = one(trial.tell(trial.offer((90, 91), request="unknown")), facts.OfferAnswered)
    require(not answer.kept and not answer.deposit, "claims pages for a request it does not have")
    trial.tell(trial.target())
    trial.tell(trial.fixed(4 * trial.page_tokens, PEER))
    trial.tell(trial.release())
    late = one(trial.tell(trial.offer((92,))), facts.OfferAnswered)
    require(not late.kept, "claims pages for a request that was released")
    trial.home()


def ignores_old_attempts(trial: WorkerTrial) -> None:
    trial.tell(trial.target(attempt=2))
    before = trial.seat.counts()
    for fact in (trial.fixed(0, None, attempt=1), trial.release(attempt=1), trial.target(attempt=2)):
        none(trial.tell(fact), facts.TargetReserved, facts.StreamStarted, facts.StreamEnded)
    require(trial.seat.counts() == before, "an old attempt's facts moved pages")
    one(trial.tell(trial.fixed(0, None, attempt=2)), facts.StreamEnded)
    trial.home()


def survives_its_peer(trial: WorkerTrial) -> None:
    """Claims of the dead are inherited: what was read from the peer is the worker's own from now on."""
    trial.tell(trial.target())
    trial.tell(trial.fixed(4 * trial.page_tokens, PEER))
    answer = one(trial.tell(trial.offer((70, 71))), facts.OfferAnswered)
    stated = one(trial.tell(facts.PeerLost(worker=PEER)), facts.OwnershipStated)
    owned, claimed = from_extents(stated.owned), from_extents(stated.claimed)
    require(claimed == [70, 71], f"claims {claimed} of the lost worker, not the 2 pages it reads")
    expected = sorted(set(range(GRANTED)) - set(answer.deposit))
    require(sorted(owned) == expected, "states other pages than it was granted and has not paid away")
    settled = facts.EstateSettled(lost=PEER, inherited=((70, 2),))
    none(trial.tell(settled), facts.OwnershipStated)
    again = one(trial.tell(facts.SourceLost(request="r", attempt=1)), facts.TargetReserved)
    require(again.held_tokens == 2 * trial.page_tokens, f"holds {again.held_tokens} tokens after the death")
    one(trial.tell(trial.fixed(again.held_tokens, None)), facts.StreamEnded)
    trial.home()


def trades_nothing_while_an_estate_is_open(trial: WorkerTrial) -> None:
    trial.tell(trial.target())
    trial.tell(trial.fixed(4 * trial.page_tokens, PEER))
    trial.tell(facts.PeerLost(worker=OTHER))
    said = trial.tell(trial.offer((70, 71)))
    none(said, facts.OfferAnswered, facts.PagesGiven)
    said = trial.tell(facts.EstateSettled(lost=OTHER, inherited=()))
    one(said, facts.OfferAnswered)
    trial.tell(trial.release())
    trial.home()


def streams_on_without_control(trial: WorkerTrial) -> None:
    trial.tell(trial.target("waiting"))
    trial.tell(facts.ControlLost())
    joined = one(trial.tell(facts.ControlJoined(epoch=2)), facts.WorkerJoined)
    require(joined.room == GRANTED, f"says it was granted {joined.room} of {GRANTED} pages")
    require(not joined.streams, "reports a stream that never started")
    trial.home()


WORKER_PROPERTIES: tuple[WorkerProperty, ...] = (
    introduces_itself,
    serves_alone,
    holds_what_it_computed,
    refuses_what_never_fits,
    reads_offered_pages_where_they_lie,
    offers_every_page_once,
    pays_deposits_back,
    lets_go_in_every_state,
    drops_a_prefill_that_waits_for_context,
    believes_nothing_of_the_dead,
    answers_late_offers,
    ignores_old_attempts,
    survives_its_peer,
    trades_nothing_while_an_estate_is_open,
    streams_on_without_control,
)
