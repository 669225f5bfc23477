"""Pieces of text from pieces of bytes: whole characters only, nothing lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.models.detokenizer import Detokenizer
from diptych.models.tokenizer import Tokenizer, tokenizer_from_gguf


def tiny_tokenizer(tiny: Any) -> Tokenizer:
    return tokenizer_from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": list(tiny.tokens),
            "tokenizer.ggml.merges": list(tiny.merges),
            "tokenizer.ggml.token_type": [1] * (len(tiny.tokens) - 3) + [3, 3, 4],
        },
        "tiny",
    )


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, 263), max_size=40), seed=st.randoms(use_true_random=False))
def test_pieces_join_to_the_whole(tiny: Any, tokens: list[int], seed: Any) -> None:
    tokenizer = tiny_tokenizer(tiny)
    detokenizer = Detokenizer(tokenizer)
    pieces, start = [], 0
    while start < len(tokens):
        end = start + seed.randint(1, 5)
        pieces.append(detokenizer.add(tokens[start:end]))
        start = end
    pieces.append(detokenizer.finish())
    assert "".join(pieces) == tokenizer.decode(tokens)


def test_a_character_comes_whole_or_not_at_all(tiny: Any) -> None:
    tokenizer = tiny_tokenizer(tiny)
    tokens = tokenizer.encode("a€😀b")
    assert len(tokens) == 1 + 3 + 4 + 1
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.add([token]) for token in tokens] == ["a", "", "", "€", "", "", "", "😀", "b"]
    assert detokenizer.finish() == ""


def test_an_incomplete_character_ends_as_a_replacement(tiny: Any) -> None:
    tokenizer = tiny_tokenizer(tiny)
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.add(tokenizer.encode("€")[:2]) == ""
    assert detokenizer.finish() == "\N{REPLACEMENT CHARACTER}"
    assert detokenizer.add(tokenizer.encode("x")) == "x"
