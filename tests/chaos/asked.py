"""What clients ask in groups, what undisturbed answers look like, and in what an answer differs from one.

Every body has a seed, so its recipe is the fleet's canonical one and its answer is a constant of the
model. Log-probabilities are compared as well where a body asks for them: they tell apart what sampling
would still hide.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import msgspec
from fleet_harness import Fleet, Stream

WORDS = (
    *("hinge", "panel", "harbour", "lantern", "mapmaker", "winter", "letter", "drawer", "sailor", "coast"),
    *("bridge", "orchard", "copper", "river", "window", "candle", "market", "ladder", "garden", "stone"),
)
STOP_CHARACTERS = 4

Body = dict[str, Any]


class Size(msgspec.Struct, frozen=True):
    """How long the prompts and answers of a group are."""

    words: int
    words_long: int
    """Of a prompt that takes more than one step to compute, so that its handoff can be met."""
    tokens: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An undisturbed one."""

    texts: dict[int, str]
    finishes: dict[int, str]
    scores: dict[int, list[tuple[str, float]]]
    prompt_tokens: int
    completion_tokens: int
    gap_s: float
    """Usual time between two pieces."""


class Group(msgspec.Struct, frozen=True):
    """Bodies that are asked at the same time, and their answers."""

    number: int
    bodies: tuple[Body, ...]
    answers: tuple[Answer, ...]


def is_long(number: int) -> bool:
    """Whether the first prompt of this group is a long one."""
    return number % 3 == 2


def bodies_of(number: int, size: Size) -> list[Body]:
    """Greedy, seeded sampling, penalties, a stop string (still without it), two choices. Faults are aimed
    at the first."""
    dice = random.Random(number)

    def body(words: int, **fields: Any) -> Body:
        prompt = f"({number}) " + " ".join(dice.choice(WORDS) for _ in range(words))
        return {"prompt": prompt, "max_tokens": size.tokens, "seed": number, "ignore_eos": True} | fields

    words = size.words
    penalties = {"presence_penalty": 0.6, "frequency_penalty": 0.4, "repetition_penalty": 1.1}
    return [
        body(size.words_long if is_long(number) else words, temperature=0, logprobs=1),
        body(words // 2 + dice.randrange(words // 2), temperature=1.0, top_p=0.95, logprobs=2),
        body(words // 2, temperature=0.8, **penalties),
        body(words // 3, temperature=0.7, top_k=40),
        body(words // 2, temperature=1.0, n=2),
    ]


STOPPING = 3
"""Index of the body that gets a stop string."""


def ask(
    running: Fleet, model: str, bodies: Sequence[Body], name: str, limit_s: float = 120.0
) -> list[Stream]:
    """Streams of all bodies, at once; their requests are called `name`-0, `name`-1, ..."""
    return [
        Stream(running.port, {"model": model} | body, request_id=f"{name}-{index}", limit_s=limit_s)
        for index, body in enumerate(bodies)
    ]


def reference(running: Fleet, model: str, number: int, size: Size) -> Group:
    """A group with its answers, from a fleet that nothing happens to. Raises `AssertionError` where an
    answer is not whole."""
    bodies = bodies_of(number, size)
    (unstopped,) = (
        one.result() for one in ask(running, model, bodies[STOPPING : STOPPING + 1], f"{number}-s")
    )
    bodies[STOPPING]["stop"] = [_stop_of(unstopped.texts[0])]
    answers = [answer_of(one.result()) for one in ask(running, model, bodies, f"{number}-r")]
    assert answers[STOPPING].finishes == {0: "stop"}
    return Group(number, tuple(bodies), tuple(answers))


def _stop_of(text: str) -> str:
    """The string that first comes as near as can be to two thirds of a text."""
    starts = range(len(text) - STOP_CHARACTERS + 1)
    firsts = [start for start in starts if text.find(text[start : start + STOP_CHARACTERS]) == start]
    start = min(firsts, key=lambda start: abs(start - 2 * len(text) // 3))
    return text[start : start + STOP_CHARACTERS]


def answer_of(stream: Stream) -> Answer:
    assert stream.complete, stream.error
    assert stream.usage is not None
    return Answer(
        texts=stream.texts,
        finishes=stream.finishes,
        scores=stream.scores,
        prompt_tokens=stream.usage["prompt_tokens"],
        completion_tokens=stream.usage["completion_tokens"],
        gap_s=median([after - before for before, after in pairwise(stream.arrivals_s)] or [0.0]),
    )


def lost(stream: Stream) -> str:
    """Why the client of a finished stream has no whole answer; empty where it has."""
    if stream.error is not None:
        return f"{stream.request_id}: {stream.error}"
    return "" if stream.complete and stream.usage else f"{stream.request_id}: broke off"


def difference(stream: Stream, answer: Answer) -> str:
    """The first thing in which a whole answer is not the undisturbed one; empty where it is."""
    usage = stream.usage or {}
    pairs = {
        "text": (stream.texts, answer.texts),
        "finish reasons": (stream.finishes, answer.finishes),
        "log-probabilities": (stream.scores, answer.scores),
        "prompt tokens": (usage.get("prompt_tokens"), answer.prompt_tokens),
        "completion tokens": (usage.get("completion_tokens"), answer.completion_tokens),
    }
    for what, (got, expected) in pairs.items():
        if got != expected:
            return f"{stream.request_id}: {what}: {got!r} instead of {expected!r}"
    return ""


def not_a_start(stream: Stream, answer: Answer) -> str:
    """Where what came of a broken stream is not how its answer begins."""
    for index, text in stream.texts.items():
        if not answer.texts[index].startswith(text):
            return f"{stream.request_id}: {text!r} is no start of {answer.texts[index]!r}"
    return ""


def extra_delay_s(stream: Stream, answer: Answer, struck_s: float) -> float:
    """The longest wait of this client after the fault, beyond the usual one between two pieces. For one
    that has no token yet its own prefill is in it, as in the work that it is compared with."""
    times = [stream.sent_s, *stream.arrivals_s]
    waits = (after - max(before, struck_s) for before, after in pairwise(times) if after > struck_s)
    return max(0.0, max(waits, default=0.0) - answer.gap_s)
