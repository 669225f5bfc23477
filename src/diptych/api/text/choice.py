"""The text of one sequence: tokens in, text and scores that a client may see out. Pure."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence

import msgspec

from diptych.api.text.machinery import TextModel
from diptych.api.text.stopping import StopCutter, StopStrings
from diptych.engine.interface import SampledToken

__all__ = ["ChoiceText", "FinishReason", "ScoredToken", "Shown", "score_token"]

# JSON has no minus infinity; OpenAI writes this for "practically never".
_LOGPROB_MIN = -9999.0


class FinishReason(enum.Enum):
    """The values are `SequenceFinished.reason`."""

    STOP_TOKEN = "stop_token"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    CONTEXT = "context"
    DEADLINE = "deadline"
    FAILED = "failed"


class ScoredToken(msgspec.Struct, frozen=True):
    token: bytes
    logprob: float | None
    """None only for the first token of a prompt, which nothing precedes."""
    top: tuple[tuple[bytes, float], ...]
    offset: int
    """Where the token begins in the choice's text, in characters."""


class Shown(msgspec.Struct, frozen=True):
    text: str
    scores: tuple[ScoredToken, ...] = ()


def score_token(model: TextModel, sampled: SampledToken, offset: int) -> ScoredToken:
    logprob = sampled.logprob
    return ScoredToken(
        model.token_bytes(sampled.token),
        None if logprob is None else max(logprob, _LOGPROB_MIN),
        tuple((model.token_bytes(token), max(value, _LOGPROB_MIN)) for token, value in sampled.top),
        offset,
    )


class ChoiceText:
    """Detokenises one sequence, cuts it at its first stop string, and lines its scores up with it.

    A token's score is shown when the character it begins in is shown, so scores never run ahead of the
    text nor name tokens beyond a stop string.
    """

    def __init__(
        self,
        model: TextModel,
        stops: StopStrings,
        *,
        stop_tokens: Sequence[int],
        scored: bool,
        offset: int = 0,
    ) -> None:
        self._model = model
        self._detokenizer = model.detokenizer()
        self._cutter = StopCutter(stops)
        self._stop_tokens = frozenset(stop_tokens)
        self._scored = scored
        self._pending: deque[ScoredToken] = deque()
        self._decoded = offset
        self._shown = offset

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text."""
        return self._cutter.matched

    def push(self, tokens: Sequence[SampledToken]) -> Shown:
        if self._cutter.matched is not None:
            return Shown("")
        pieces = []
        for sampled in tokens:
            if sampled.token in self._stop_tokens:
                continue
            if self._scored:
                self._pending.append(score_token(self._model, sampled, self._decoded))
            piece = self._detokenizer.push(sampled.token)
            self._decoded += len(piece)
            pieces.append(self._cutter.push(piece))
        return self._show("".join(pieces))

    def finish(self) -> Shown:
        """The rest of the text; nothing may be pushed afterwards."""
        if self._cutter.matched is not None:
            self._pending.clear()
            return Shown("")
        text = self._cutter.push(self._detokenizer.finish())
        text += self._cutter.finish()
        shown = self._show(text)
        if self._cutter.matched is not None:
            return shown
        rest = tuple(self._pending)
        self._pending.clear()
        return Shown(shown.text, shown.scores + rest)

    def _show(self, text: str) -> Shown:
        self._shown += len(text)
        scores = []
        while self._pending and self._pending[0].offset < self._shown:
            scores.append(self._pending.popleft())
        return Shown(text, tuple(scores))
