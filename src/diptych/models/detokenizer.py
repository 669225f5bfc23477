"""Text of a stream of tokens, piece by piece, without ever cutting a character."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from diptych.models.tokenizer import Tokenizer


class Detokenizer:
    """One output sequence. The pieces joined equal `Tokenizer.decode` of all its tokens.

    Bytes of a character that is not complete yet are kept back; bytes that can never become one are
    given out as U+FFFD at once. Control tokens add nothing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, tokens: Iterable[int]) -> str:
        """The text that these tokens complete; possibly empty."""
        return self.add_bytes(b"".join(map(self._tokenizer.token_bytes, tokens)))

    def add_bytes(self, data: bytes) -> str:
        """As `add`, for output that is already bytes (cut at a stop string, say)."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What was kept back, as U+FFFD; the detokenizer is then fresh again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
