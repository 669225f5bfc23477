"""Cutting text at stop strings while it streams. Pure.

An Aho-Corasick automaton (Aho and Corasick, 1975) over the stop strings: the depth of its state is the
length of the longest end of the text that may still grow into a stop string, which is exactly what must
be withheld; and the result cannot depend on how the text was cut into pieces. Cost is linear in the
text, whatever the stop strings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["StopCutter", "StopStrings"]


class StopStrings:
    """The automaton of some stop strings; shared by all sequences of a request."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.fallback = [0]
        self.match: list[str | None] = [None]
        for stop in stops:
            self._insert(stop)
        self._link()

    def _insert(self, stop: str) -> None:
        state = 0
        for character in stop:
            following = self.next[state].get(character)
            if following is None:
                following = len(self.next)
                self.next[state][character] = following
                self.next.append({})
                self.depth.append(self.depth[state] + 1)
                self.fallback.append(0)
                self.match.append(None)
            state = following
        if state:
            self.match[state] = stop

    def _link(self) -> None:
        waiting = deque(self.next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, following in self.next[state].items():
                self.fallback[following] = self.step(self.fallback[state], character)
                waiting.append(following)
            if self.match[state] is None:
                self.match[state] = self.match[self.fallback[state]]

    def step(self, state: int, character: str) -> int:
        while True:
            following = self.next[state].get(character)
            if following is not None:
                return following
            if state == 0:
                return 0
            state = self.fallback[state]


class StopCutter:
    """Passes one sequence's text on, up to the first stop string.

    The first stop string is the one that is complete first; of several that end at the same character,
    the longest. It is not part of the text.
    """

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops
        self._state = 0
        self._withheld = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that may be shown now. After a match (`matched`) always empty."""
        if self.matched is not None:
            return ""
        stops = self._stops
        if len(stops.next) == 1:
            return text
        buffered = self._withheld + text
        state = self._state
        for index, character in enumerate(text, start=len(self._withheld) + 1):
            state = stops.step(state, character)
            matched = stops.match[state]
            if matched is not None:
                self.matched = matched
                self._withheld = ""
                return buffered[: index - len(matched)]
        self._state = state
        shown = len(buffered) - stops.depth[state]
        self._withheld = buffered[shown:]
        return buffered[:shown]

    def finish(self) -> str:
        """What was withheld and did not become a stop string."""
        withheld, self._withheld = self._withheld, ""
        return withheld
