"""What a worker keeps of one request: as its target (D) or as its source of pages (P).

    prompt    |----------- shared pages --------------|- tail -|
    at D       held | claimed from P | computed here    each sequence computes its own tail, and decodes
    position   0 .. held ......... split ........ border ..... prompt_tokens + emitted

`border` is the last page border before the last prompt token. Everything below it is shared by the
request's sequences and never written again; from there on a page belongs to one sequence.
"""

from __future__ import annotations

from diptych.core.facts import PrefillRequested, SequenceStart, TargetRequested
from diptych.core.ids import Attempt, Incarnation, Pages, RequestId
from diptych.core.pages.node import Node
from diptych.core.recipe import Recipe

WAITING = "waiting"
"""In line for pages: a target, or a source that must hold copies of all it computes."""
RESERVED = "reserved"
"""Its pages are set aside; control fixes the recipe."""
FETCHING = "fetching"
"""Pages below the split come from the source."""
RUNNING = "running"
"""All pages below the split are at hand: it computes the rest of the prompt, then decodes."""
ASKING = "asking"
"""A source waits for context pages that only the target has."""
COMPUTING = "computing"
"""It computes, and offers what is sealed."""
OFFERING = "offering"
"""All is computed; the target has still to answer offers."""
CLOSING = "closing"
"""Either, released while the run in hand still uses its pages."""

Key = tuple[RequestId, Attempt]


class Sequence:
    """One choice of a request on its target."""

    # fmt: off
    __slots__ = (
        "computed", "decoding", "done", "hashes", "index", "known", "known_before", "lasts", "leaf", "pages",
        "sealed", "tabled",
    )
    # fmt: on

    def __init__(self, start: SequenceStart, prompt_tokens: int) -> None:
        self.index = start.index
        self.hashes = start.page_hashes
        self.known = prompt_tokens + start.emitted
        """Tokens whose ids are known when it begins to decode; the KV of the last is not computed yet."""
        self.known_before = 0
        """From then on it knows so many tokens and one more for each step of the batch."""
        self.lasts: int | None = None
        """Last step of the batch that its pages last for; None where they last to its end."""
        self.computed = 0
        self.leaf: Node | None = None
        """Deepest pinned node of its path, once the shared part is complete."""
        self.pages: list[int] = []
        """Its page table after the shared pages; the first `sealed` of them are in the tree."""
        self.sealed = 0
        self.tabled = 0
        """Logical pages that the step loop knows of, shared ones included."""
        self.decoding = False
        self.done = False


class Target:
    # fmt: off
    __slots__ = (
        "ask", "asked_ns", "asked_page", "border", "bytes_moved", "computed", "early_offers", "fetched",
        "key", "leaf", "open", "outcomes", "prompting", "pull_ns", "pulled_pages", "recipe", "sealed",
        "sequences", "serial", "shared", "source", "spare", "split", "started", "state", "tabled",
        "waited_ns",
    )
    # fmt: on

    def __init__(self, ask: TargetRequested, serial: int, now_ns: int) -> None:
        self.ask = ask
        self.key: Key = (ask.request, ask.attempt)
        self.serial = serial
        self.asked_ns = now_ns
        self.waited_ns = 0
        self.state = WAITING
        self.border = len(ask.page_hashes)
        """Shared pages of the prompt."""
        self.recipe: Recipe = ask.recipe
        self.split = 0
        self.source: Incarnation | None = None
        self.leaf: Node | None = None
        self.shared: list[int] = []
        self.sealed = 0
        """The first so many of `shared` are in the tree."""
        self.spare: list[int] = []
        """Free pages set aside for the rest: to compute into, or to pay for claims."""
        self.computed = 0
        """Shared tokens at hand."""
        self.tabled = 0
        self.early_offers: list[tuple[Incarnation, int, int, Pages]] = []
        """(source, first page, claim, pages) of offers that came before the recipe."""
        self.asked_page = 0
        """Prompt pages before this one are here or being pulled."""
        self.fetched: dict[int, list[int]] = {}
        """Copies, by first page, that arrived before those in front of them."""
        self.pulled_pages = 0
        self.pull_ns = 0
        self.bytes_moved = 0
        self.started = False
        self.sequences = [Sequence(start, ask.prompt_tokens) for start in ask.starts]
        self.open = len(self.sequences)
        """Sequences that have not finished."""
        self.prompting = len(self.sequences)
        """Those of them that do not decode yet."""
        self.outcomes: list[tuple[int, int, str]] = []
        """(sequence, output tokens, reason) of those that finished."""

    def sequence(self, index: int) -> Sequence:
        for sequence in self.sequences:
            if sequence.index == index:
                return sequence
        raise KeyError(index)

    def pages_needed(self, page_tokens: int, tokens_ahead: int) -> int:
        """Pages for the whole prompt and up to `tokens_ahead` more output tokens of each sequence."""
        last = self.ask.prompt_tokens + self.ask.tokens_max
        needed = self.border
        for sequence in self.sequences:
            needed += -(-min(last, sequence.known + tokens_ahead) // page_tokens) - self.border
        return needed

    def private_pages(self) -> list[int]:
        pages = [*self.spare, *self.shared[self.sealed :]]
        for copied in self.fetched.values():
            pages += copied
        for sequence in self.sequences:
            pages += sequence.pages[sequence.sealed :]
        return pages


class Source:
    # fmt: off
    __slots__ = (
        "answered_ns",
        "ask",
        "asked_ns",
        "cached",
        "claimed",
        "computed",
        "context",
        "detached",
        "key",
        "leaf",
        "offered",
        "offered_ns",
        "open_offers",
        "pages",
        "sealed",
        "serial",
        "spare",
        "started_ns",
        "state",
        "tabled",
    )
    # fmt: on

    def __init__(self, ask: PrefillRequested, serial: int, now_ns: int) -> None:
        self.ask = ask
        self.key: Key = (ask.request, ask.attempt)
        self.serial = serial
        self.asked_ns = now_ns
        self.started_ns: int | None = None
        self.state = COMPUTING if ask.shares_pool else WAITING
        self.leaf: Node | None = None
        self.pages: list[int] = []
        """Its page table; the first `sealed` are in the tree, or lent as context by the target."""
        self.sealed = 0
        self.cached = 0
        """Pages found in the tree."""
        self.computed = 0
        """Tokens at hand: cached, lent or computed."""
        self.context = False
        """It reads pages that the target lends, and must say when it is done with them."""
        self.detached = False
        """Its new pages hang on context that is not in its tree."""
        self.spare: list[int] = []
        self.offered = 0
        """Index of the first page not offered yet."""
        self.open_offers = 0
        self.claimed = 0
        self.offered_ns = 0
        self.answered_ns = 0
        self.tabled = 0

    def private_pages(self) -> list[int]:
        return [*self.spare, *self.pages[self.sealed :]]
