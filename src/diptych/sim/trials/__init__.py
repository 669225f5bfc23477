"""Many scenarios at once, and the smallest one that still fails.

trial.py      one scenario by name or value, and what came of it
many.py       many of them on all cores
shrink.py     delta debugging over requests, workers and faults
closing.py    the table that is printed at the end
"""
