"""Exhaustive exploration of the real core machines on small fleets: every order of every event.

configuration.py   what is explored and within which budgets      world.py     one event, performed
cells.py           parts of a state: stored once, restored        choices.py   what figures would decide
shapes.py          what two parts must share to be one            graph.py     numbers for all of it
search.py          performs what the compiled search asks for     native/      the search, over numbers
rules.py           what must hold, and at quiet                   report.py    tables and counterexamples
coverage.py        which rows of the machines' tables ran         reasons.py   why others cannot
"""
