"""The text machinery of a model as this room needs it; `models/` implements it, tests fake it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

__all__ = ["ChatMessage", "IncrementalDetokenizer", "TextModel", "TextModels"]


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    """`system`, `user` or `assistant`."""
    content: str


class IncrementalDetokenizer(Protocol):
    """Text of one sequence, token by token. What it returns is always whole characters."""

    def push(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        ...

    def finish(self) -> str:
        """The rest, a cut-off character as U+FFFD."""
        ...


class TextModel(Protocol):
    """Tokenizer and chat template of one model."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """Ids that end a turn or the text."""
        ...

    def encode_text(self, text: str) -> Sequence[int]:
        """Token ids of a bare prompt, with the model's own begin token where it has one."""
        ...

    def encode_chat(self, messages: Sequence[ChatMessage]) -> Sequence[int]:
        """Token ids of a conversation up to where the assistant's next turn begins.

        Raises `ValueError` where the model's template refuses the conversation.
        """
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token as log-probabilities name it, control tokens written out."""
        ...

    def detokenizer(self) -> IncrementalDetokenizer: ...


TextModels = Mapping[str, TextModel]
"""By model name, as `Backend.models` names them."""
