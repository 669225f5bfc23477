"""Errors of the pure core.

DiptychError
├── ImpossibleFact   a machine met a fact that its table has no row for: our bug, never the peer's
└── BrokenInvariant  `check()` found the books wrong: our bug
"""

from __future__ import annotations


class DiptychError(Exception):
    """Base of all errors that Diptych raises on purpose."""


class ImpossibleFact(DiptychError):
    def __init__(self, machine: str, state: str, fact: object) -> None:
        super().__init__(f"{machine}: no row for {type(fact).__name__} in state {state}: {fact}")
        self.machine = machine
        self.state = state
        self.fact = fact


class BrokenInvariant(DiptychError):
    def __init__(self, machine: str, rule: str) -> None:
        super().__init__(f"{machine}: {rule}")
        self.machine = machine
        self.rule = rule
