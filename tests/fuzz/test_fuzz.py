"""Tens of thousands of altered inputs; `make fuzz` tries a million and more."""

from __future__ import annotations

import pytest
from parsers import Parser, attack, parsers


@pytest.mark.parametrize("parser", parsers(), ids=lambda parser: parser.name)
def test_altered_bytes_are_taken_or_refused_and_nothing_else(parser: Parser) -> None:
    counts = attack(parser, 3000, seed=1)
    assert counts["refused"] > 0, "the parser takes everything"
    assert counts["taken"] + counts["refused"] == 3000


@pytest.mark.parametrize("parser", parsers(), ids=lambda parser: parser.name)
def test_the_samples_are_well_formed(parser: Parser) -> None:
    for sample in parser.samples:
        assert parser.parse(sample) is not None
