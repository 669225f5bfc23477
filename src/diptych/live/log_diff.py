"""Values of the core in words, and how two of them differ, field by field. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

__all__ = ["differences", "in_words"]

_ITEMS_SHOWN = 3


def differences(expected: Any, got: Any, where: str) -> list[str]:
    """A line for each leaf that differs: path of fields, expected and got value. Empty where none does."""
    if expected == got:
        return []
    if isinstance(expected, msgspec.Struct) and type(expected) is type(got):
        return [
            line
            for name in expected.__struct_fields__
            for line in differences(getattr(expected, name), getattr(got, name), f"{where}.{name}")
        ]
    if isinstance(expected, tuple) and isinstance(got, tuple):
        return _of_items(expected, got, where)
    return [f"{where}: expected {in_words(expected)}, got {in_words(got)}"]


def in_words(value: Any) -> str:
    """As Python writes it, with bytes in hex, long tuples by their first items, and defaults left out."""
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        defaults = value.__struct_defaults__
        usual = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        fields = [
            f"{name}={in_words(field)}"
            for name in names
            if (field := getattr(value, name)) != usual.get(name, msgspec.NODEFAULT)
        ]
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, tuple):
        items = [in_words(item) for item in value[:_ITEMS_SHOWN]]
        if len(value) > _ITEMS_SHOWN:
            items.append(f"... {len(value)} in all")
        return f"({', '.join(items)})"
    return value.hex() if isinstance(value, bytes) else repr(value)


def _of_items(expected: Sequence[Any], got: Sequence[Any], where: str) -> list[str]:
    common = min(len(expected), len(got))
    lines = [
        line
        for index in range(common)
        for line in differences(expected[index], got[index], f"{where}[{index}]")
    ]
    for index, one in enumerate(expected[common:], start=common):
        lines.append(f"{where}[{index}]: expected {in_words(one)}, got nothing")
    for index, one in enumerate(got[common:], start=common):
        lines.append(f"{where}[{index}]: expected nothing, got {in_words(one)}")
    return lines
