"""One run of a recipe: a value, in facts and on the wire, apart from what is computed with recipes."""

from __future__ import annotations

import msgspec


class Run(msgspec.Struct, frozen=True, array_like=True):
    numerics: str
    end: int
    """First position after the run; `OPEN_END` for the last one."""
