"""Bugs in the books of pages: the ledger, the prefix tree, handing over and lending."""

from __future__ import annotations

from mutant import Mutant

LEDGER, TREE = "core/pages/ledger.py", "core/pages/prefix.py"
TARGET, SOURCE = "core/worker/target.py", "core/worker/source.py"
LOANS = "core/worker/loans.py"

PAGE_MUTANTS = (
    Mutant(
        "a late offer of a lost source is claimed",
        TARGET,
        "if first_page != len(task.shared) or sender in self.ledger.lost:",
        "if first_page != len(task.shared):",
        test="tests/core/test_last_words.py",
    ),
    Mutant(
        "an offer after the release is not refused",
        TARGET,
        "    PagesOffered: T.refuse,\n",
        "    PagesOffered: T.ignore,\n",
    ),
    Mutant(
        "early offers are forgotten with their task",
        TARGET,
        "        self._refuse_early(task)\n        self._act(DropRequest",
        "        self._act(DropRequest",
        test="tests/core/test_last_words.py",
    ),
    Mutant(
        "a source that is released frees what it has offered",
        SOURCE,
        "        self.ledger.unpin(task.leaf)\n        request, attempt",
        "        for key in [held for held in self.offers if held[0] == task.key]:\n"
        "            self.ledger.unpin(self.offers.pop(key)[1])\n"
        "        self.ledger.unpin(task.leaf)\n        request, attempt",
    ),
    Mutant(
        "a cancelled target frees the pages that it claims",
        "core/worker/sequence.py",
        "[*self.spare, *self.shared[self.sealed :]]",
        "[*self.spare, *self.shared]",
    ),
    Mutant(
        "a claim is not paid for",
        TARGET,
        "task.spare[:paid], task.spare[paid : len(pages)]",
        "task.spare[:0], task.spare[: len(pages)]",
    ),
    Mutant(
        "a claim that pays for another does not end",
        SOURCE,
        "            self.ledger.end_claim(fact.sender, fact.released)\n",
        "            pass\n",
        test="tests/core/test_source.py",
    ),
    Mutant(
        "claims pay for others while an estate is settled",
        LEDGER,
        "while not self.frozen and len(released) < count:",
        "while len(released) < count:",
        test="tests/core/test_claims.py",
    ),
    Mutant(
        "a deposit is paid back twice",
        LEDGER,
        "self.debts[claimant] = self.debts.get(claimant, 0) + len(pages)",
        "self.debts[claimant] = self.debts.get(claimant, 0) + 2 * len(pages)",
    ),
    Mutant(
        "a deposit is never paid back",
        LEDGER,
        "self.debts[claimant] = self.debts.get(claimant, 0) + len(pages)",
        "pass",
    ),
    Mutant(
        "gifts under way are not stated",
        LEDGER,
        "self.given.setdefault(to, deque()).append((serial, pages))",
        "pass",
        test="tests/core/test_worker.py",
    ),
    Mutant(
        "word of an arrival is not believed",
        LEDGER,
        "            gifts.popleft()\n",
        "            break\n",
        test="tests/core/test_worker.py",
    ),
    Mutant(
        "gifts are called received while an estate is settled",
        LEDGER,
        "return 0 if self.frozen else self.received.get(giver, 0)",
        "return self.received.get(giver, 0)",
        test="tests/core/test_worker.py",
    ),
    Mutant(
        "what a lost worker gave is taken",
        "core/worker/machine.py",
        "        if fact.sender not in self.ledger.lost:\n            self.ledger.paid_back",
        "        if True:\n            self.ledger.paid_back",
        test="tests/core/test_last_words.py",
    ),
    Mutant(
        "a lost worker still ends claims",
        "core/worker/machine.py",
        "        if fact.sender not in self.ledger.lost:\n            self.ledger.claim_ended",
        "        if True:\n            self.ledger.claim_ended",
        test="tests/core/test_last_words.py",
    ),
    Mutant(
        "pages change hands while an estate is settled",
        LEDGER,
        "        if self.frozen:\n",
        "        if False:\n",
        test="tests/core/test_worker.py",
    ),
    Mutant(
        "what waited for the settlement is lost",
        LEDGER,
        "        if not self.frozen:\n            while self._held_back:\n"
        "                self.outbox.append(self._held_back.popleft())",
        "        if not self.frozen:\n            self._held_back.clear()",
    ),
    Mutant(
        "what is owed to a dead worker is forgotten",
        LEDGER,
        "                self.debts[CONTROL] = self.debts.get(CONTROL, 0) + debt\n",
        "                pass\n",
        test="tests/core/test_last_words.py",
    ),
    Mutant(
        "claims of a dead worker are not ended",
        LEDGER,
        "if settled.lost in self.lost else ()",
        "if False else ()",
    ),
    Mutant(
        "a context loan is not pinned",
        LOANS,
        "elif (task.key, fact.sender) not in self.open:",
        "elif False:",
        test="tests/core/test_field_failures.py",
    ),
    Mutant("context is not returned", SOURCE, "        if task.context:\n", "        if False:\n"),
    Mutant(
        "a loan to a dead source is kept",
        LOANS,
        "                self.end(key, reader)",
        "                pass",
        test="tests/core/test_last_words.py",
    ),
    Mutant(
        "an offer to a dead target is kept",
        SOURCE,
        "                del self.offers[key]\n                self.ledger.unpin(leaf)",
        "                pass",
    ),
    Mutant(
        "a prefix matches whatever computed it",
        TREE,
        "if child.numerics == run.numerics:",
        "if child.numerics:",
        seed="mixed-30",
    ),
    Mutant(
        "a page stands for one of other numerics",
        TREE,
        "if candidate.numerics == numerics:",
        "if candidate.numerics:",
        seed="mixed-14",
    ),
    Mutant(
        "a match runs on where the numerics change",
        TREE,
        "run.end // self.page_tokens - page",
        "1 << 30",
        test="tests/core/test_prefix.py",
    ),
    Mutant(
        "a node is evicted under its last reader", TREE, "node.pins == 0 and not node.lent", "node.pins <= 1"
    ),
    Mutant("a split forgets who claims the pages", TREE, "upper.lent = dict(node.lent)", "upper.lent = {}"),
    Mutant(
        "pages that are hung elsewhere take their readers' earlier pages along",
        TREE,
        "            node.former = former\n            self.pin(former)\n",
        "",
        test="tests/core/test_prefix.py",
    ),
    Mutant(
        "pages without context can be found",
        TREE,
        "        child.detached = True\n        child.pins",
        "        child.pins",
    ),
    Mutant(
        "an unsealed page is offered",
        SOURCE,
        "full = task.computed // tokens",
        "full = min(-(-task.computed // tokens), len(task.ask.page_hashes))",
    ),
    Mutant(
        "a finished sequence is sealed one page off",
        "core/worker/stream.py",
        "pages = sequence.pages[sequence.sealed : end]",
        "pages = sequence.pages[sequence.sealed : end][::-1]",
    ),
    Mutant(
        "a source that is short of pages keeps what it could be paid for",
        SOURCE,
        "            self._offer(now_ns, task)\n            return 0\n",
        "            return 0\n",
        test="tests/core/test_source.py",
    ),
    Mutant(
        "an offer names the page after",
        SOURCE,
        "first_page=task.offered,",
        "first_page=task.offered + 1,",
    ),
    Mutant(
        "nothing is kept for prefills",
        "core/worker/machine.py",
        "self.ledger.keep = max(1, min(chunk, self.ledger.granted // 8))",
        "self.ledger.keep = 0",
        test="tests/core/test_worker.py",
    ),
)
