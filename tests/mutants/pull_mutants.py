"""Bugs of copies between pools: claims, leases, confirmations, and pages that a port still writes."""
# ruff: noqa: E501 (text that stands in the code)

from __future__ import annotations

from mutant import Mutant

PULLS, GRANTS, FETCH = "core/worker/pulls.py", "core/worker/grants.py", "core/worker/fetch.py"
SOURCE, EXCHANGE = "core/worker/source.py", "core/worker/exchange.py"

PULL_MUTANTS = (
    Mutant(
        "a copy is believed before its owner has confirmed the claim",
        PULLS,
        "            pull.state = CONFIRMING\n            pull.expires_ns",
        "            del self.open[fact.source, fact.claim]\n            return pull\n            pull.expires_ns",
    ),
    Mutant(
        "a copy is believed although its claim did not hold",
        PULLS,
        "        if not fact.held:\n",
        "        if False:\n",
        test="tests/core/test_pulls.py",
    ),
    Mutant(
        "a copy is believed although its checksum differs",
        PULLS,
        "if pull.state is PULLING and not fact.failure:",
        "if pull.state is PULLING:",
    ),
    Mutant(
        "a lapsed claim is confirmed as if it had held",
        GRANTS,
        "held=grant is not None",
        "held=True",
        test="tests/core/test_pulls.py",
    ),
    Mutant(
        "a claim's lease is not renewed while its reader is alive",
        GRANTS,
        "                grant.expires_ns = now_ns + self.config.claim_lease_ns\n",
        "                grant.expires_ns = now_ns\n",
        test="tests/core/test_pulls.py",
    ),
    Mutant(
        "a claim of a silent reader never ends",
        GRANTS,
        "        for grant in late:\n            self._close(grant)\n        return late",
        "        return []",
    ),
    Mutant(
        "a page is free while a claim on it is open",
        GRANTS,
        "        self.ledger.outbox.append(CloseClaim(claim=grant.claim))\n        self.ledger.unpin(grant.leaf)\n",
        "        self.ledger.unpin(grant.leaf)\n",
    ),
    Mutant(
        "pages of an abandoned copy are free while a port still writes them",
        PULLS,
        "            pull.state = ABANDONED\n",
        "            pull.state = ABANDONED\n            self.ledger.free_private(pull.into)\n            pull.into = []\n",
    ),
    Mutant(
        "pages of an abandoned copy are never free again",
        PULLS,
        "        if pull.state is ABANDONED:\n            self.ledger.free_private(pull.into)\n            return None\n",
        "        if pull.state is ABANDONED:\n            return None\n",
    ),
    Mutant(
        "a lost source's copies are not waited for before the next source's",
        FETCH,
        "        return not self.pulls.any_of(task.key)\n",
        "        return True\n",
        test="tests/core/test_pulls.py",
    ),
    Mutant(
        "copies are sealed in the order in which they arrive",
        FETCH,
        "        while task.sealed in task.fetched:\n            pages, hashes = task.fetched.pop(task.sealed),",
        "        for first in list(task.fetched):\n            pages, hashes = task.fetched.pop(first),",
    ),
    Mutant(
        "an offer that nobody wants is not answered",
        PULLS,
        "        self._end(source, claim)\n\n    def pulled",
        "        pass\n\n    def pulled",
        test="tests/core/test_pulls.py",
    ),
    Mutant(
        "a failed copy is told to nobody",
        FETCH,
        "            if task.source is not None:\n                self.fail(task.key, pull.source, pull.failure)\n",
        "            pass\n",
    ),
    Mutant(
        "context that cannot be believed is used all the same",
        FETCH,
        "        if pull.failure:\n            task.spare = pull.into + task.spare\n            return\n",
        "        pass\n",
    ),
    Mutant(
        "sources that wait for each other's pages wait for ever",
        EXCHANGE,
        "        self.sources.expire(now_ns)\n",
        "        pass\n",
    ),
    Mutant(
        "a source takes pages for copies as it needs them",
        SOURCE,
        "            spare = self.ledger.take(ask.split // tokens - len(pages), self.ledger.keep)\n",
        "            spare = self.ledger.take(0)\n",
        test="tests/core/test_pulls.py",
    ),
    Mutant(
        "a released source leaves its claims to their leases",
        SOURCE,
        "            self.grants.release(task.key)\n",
        "            pass\n",
        test="tests/core/test_pulls.py",
    ),
    Mutant(
        "a pair whose copies fail is tried again and again",
        "core/control/pairs.py",
        "            pair.until_ns = now_ns + self.config.quarantine_ns\n",
        "            pass\n",
        test="tests/core/test_pairs.py",
    ),
    Mutant(
        "a request that failed to fetch asks the same source again",
        "core/control/afar.py",
        " or view.name in need.avoid:",
        ":",
        test="tests/core/test_pairs.py",
    ),
    Mutant(
        "a reader confirms nothing for ever",
        PULLS,
        "if p.state is CONFIRMING and p.expires_ns <= now_ns]",
        "if False]",
        test="tests/core/test_pulls.py",
    ),
)
