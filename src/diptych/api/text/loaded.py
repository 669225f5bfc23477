"""`TextModel` over a model's real tokenizer and chat template (room `models/`)."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.api.text.machinery import ChatMessage, IncrementalDetokenizer
from diptych.models.chat_template import ChatTemplate
from diptych.models.detokenizer import Detokenizer
from diptych.models.tokenizer import Tokenizer

__all__ = ["LoadedText"]


class _OneByOne:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = Detokenizer(tokenizer)

    def push(self, token: int) -> str:
        return self._detokenizer.add((token,))

    def finish(self) -> str:
        return self._detokenizer.finish()


class LoadedText:
    """Text of one loaded model; `template` is None for a base model, which then has no chat."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        # The table of token bytes is built on first use; the first client must not wait for that.
        _ = tokenizer.bytes_table

    @property
    def vocabulary_size(self) -> int:
        return self._tokenizer.vocabulary

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return self._tokenizer.end_of_turn

    def encode_text(self, text: str) -> Sequence[int]:
        return self._tokenizer.encode_prompt(text)

    def encode_chat(self, messages: Sequence[ChatMessage]) -> Sequence[int]:
        if self._template is None:
            raise ValueError("this model has no chat template; use /v1/completions.")
        plain = [{"role": message.role, "content": message.content} for message in messages]
        return self._tokenizer.encode(self._template.render(plain), special=True)

    def token_bytes(self, token: int) -> bytes:
        return self._tokenizer.token_bytes(token, special=True)

    def detokenizer(self) -> IncrementalDetokenizer:
        return _OneByOne(self._tokenizer)
