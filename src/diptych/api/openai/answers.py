"""Documents that the OpenAI endpoints answer with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from diptych.api.generation import ServedModel
from diptych.api.text.choice import FinishReason, ScoredToken
from diptych.api.text.completion import TextDelta, Usage, WholeChoice

__all__ = ["ChatDocuments", "CompletionDocuments", "model_document"]

_FINISH = {
    FinishReason.STOP_TOKEN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CONTEXT: "length",
    # OpenAI has no word for a client's own deadline; the text is cut short, as by a length.
    FinishReason.DEADLINE: "length",
}


def _finish(reason: FinishReason | None) -> str | None:
    return None if reason is None else _FINISH[reason]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def model_document(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": model.owner,
        "context_length": model.context_max,
    }


class ChatDocuments(msgspec.Struct, frozen=True, kw_only=True):
    identity: str
    created_s: int
    model: str
    scored: bool
    include_usage: bool = False

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identity, "object": kind, "created": self.created_s, "model": self.model}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = self._head("chat.completion.chunk") | {"choices": choices}
        if self.include_usage:
            chunk["usage"] = None
        return chunk

    def opening(self, choice: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk([{"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}])

    def chunks(self, delta: TextDelta) -> list[dict[str, Any]]:
        chunks = []
        if delta.text or delta.scores:
            content = {"content": delta.text}
            chunks.append(self._chunk([self._choice(delta.choice, content, delta.scores, None)]))
        if delta.finish is not None:
            chunks.append(self._chunk([self._choice(delta.choice, {}, (), delta.finish)]))
        return chunks

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        scores: Sequence[ScoredToken],
        finish: FinishReason | None,
    ) -> dict[str, Any]:
        logprobs = _chat_logprobs(scores) if self.scored and scores else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": _finish(finish)}

    def usage(self, usage: Usage) -> dict[str, Any]:
        return self._chunk([]) | {"usage": _usage(usage)}

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> dict[str, Any]:
        documents = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": _chat_logprobs(choice.scores) if self.scored else None,
                "finish_reason": _finish(choice.finish),
            }
            for index, choice in enumerate(choices)
        ]
        return self._head("chat.completion") | {"choices": documents, "usage": _usage(usage)}


class CompletionDocuments(msgspec.Struct, frozen=True, kw_only=True):
    identity: str
    created_s: int
    model: str
    scored: bool
    include_usage: bool = False

    def _document(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": "text_completion",
            "created": self.created_s,
            "model": self.model,
            "choices": choices,
        }

    def _choice(
        self, index: int, text: str, scores: Sequence[ScoredToken], finish: FinishReason | None
    ) -> dict[str, Any]:
        logprobs = _completion_logprobs(scores) if self.scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": _finish(finish)}

    def chunk(self, delta: TextDelta) -> dict[str, Any]:
        chunk = self._document([self._choice(delta.choice, delta.text, delta.scores, delta.finish)])
        if self.include_usage:
            chunk["usage"] = None
        return chunk

    def usage(self, usage: Usage) -> dict[str, Any]:
        return self._document([]) | {"usage": _usage(usage)}

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> dict[str, Any]:
        documents = [
            self._choice(index, choice.text, choice.scores, choice.finish)
            for index, choice in enumerate(choices)
        ]
        return self._document(documents) | {"usage": _usage(usage)}


def _chat_token(token: bytes, logprob: float | None) -> dict[str, Any]:
    return {
        "token": token.decode(errors="replace"),
        "logprob": logprob,
        "bytes": list(token),
    }


def _chat_logprobs(scores: Sequence[ScoredToken]) -> dict[str, Any]:
    content = [
        _chat_token(score.token, score.logprob)
        | {"top_logprobs": [_chat_token(token, logprob) for token, logprob in score.top]}
        for score in scores
    ]
    return {"content": content, "refusal": None}


def _completion_token(token: bytes) -> str:
    """Text of a token, or `bytes:\\xe2\\x80` where it is only a part of a character."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _completion_logprobs(scores: Sequence[ScoredToken]) -> dict[str, Any]:
    return {
        "tokens": [_completion_token(score.token) for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [
            None
            if score.logprob is None
            else {_completion_token(token): logprob for token, logprob in score.top}
            for score in scores
        ],
        "text_offset": [score.offset for score in scores],
    }
