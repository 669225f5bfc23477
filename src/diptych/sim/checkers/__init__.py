"""Promises of the whole system, checked on a running world.

    observer.py   after each step what it touched, every few steps and at quiet in full
    books.py      a worker's own books against those that the pool keeps from the messages alone
    silence.py    who may be taken for dead because nothing was heard
    endings.py    every request ends once, in time, as a whole or with a named failure

The pool checks every read, write, offer, claim and gift as it happens (`sim.pool`), the doors every token
(`sim.door`).
"""

from __future__ import annotations

from diptych.sim.checkers.observer import Checkers

__all__ = ["Checkers"]
