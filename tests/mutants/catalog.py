"""All deliberate bugs; each has to be caught by `make mutants`."""

from __future__ import annotations

from control_mutants import CONTROL_MUTANTS
from network_mutants import NETWORK_MUTANTS
from page_mutants import PAGE_MUTANTS
from pull_mutants import PULL_MUTANTS
from worker_mutants import WORKER_MUTANTS

MUTANTS = (*PAGE_MUTANTS, *PULL_MUTANTS, *WORKER_MUTANTS, *CONTROL_MUTANTS, *NETWORK_MUTANTS)
