"""Exhaustive exploration of the real core machines on small fleets: every order of every event.

configuration.py   what is explored and within which budgets      world.py     one event, performed
cells.py           parts of a state: stored once, restored        search.py    breadth first, with paths
shapes.py          what two states must share to be one state     rules.py     what must hold, and at quiet
coverage.py        which rows of the machines' tables ran         report.py    tables and counterexamples
"""
