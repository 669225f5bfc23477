"""Bugs in the control plane: attempts, ends, deaths, estates and time."""

from __future__ import annotations

from mutant import Mutant

MACHINE, REQUESTS = "core/control/machine.py", "core/control/requests.py"
DISPATCH, ESTATE, FLEET = "core/control/dispatch.py", "core/control/estate.py", "core/control/fleet.py"

CONTROL_MUTANTS = (
    Mutant(
        "facts of an old attempt count",
        REQUESTS,
        "(request is None or fact.attempt != request.attempt)",
        "request is None",
    ),
    Mutant(
        "a new control numbers attempts from one",
        DISPATCH,
        "self._attempts = config.epoch * ATTEMPTS_PER_EPOCH",
        "self._attempts = 0",
        test="tests/core/test_new_control.py",
    ),
    Mutant(
        "a resume chooses another recipe", DISPATCH, "        if not request.recipe:\n", "        if True:\n"
    ),
    Mutant(
        "a stream after a death starts from nothing", REQUESTS, "        request.starts = fact.starts\n", ""
    ),
    Mutant(
        "a stream is adopted and let go",
        MACHINE,
        "worker = self.unclaimed.pop(key)",
        "worker = self.unclaimed[key]",
        test="tests/core/test_new_control.py",
    ),
    Mutant(
        "a stream that ended early is adopted as if it ran",
        MACHINE,
        "        early = self.early.pop(key, None)\n",
        "        early = None\n",
        test="tests/core/test_new_control.py",
    ),
    Mutant(
        "streams that no door claims run on",
        MACHINE,
        "            self.outbox.append(Send(to=worker, fact=RequestReleased("
        "request=request_id, attempt=attempt)))\n",
        "            pass\n",
        test="tests/core/test_new_control.py",
    ),
    Mutant(
        "tokens from before a resume are counted twice",
        REQUESTS,
        "        request.outputs.update(fact.outputs)\n",
        "        before = {start.index: start.emitted for start in request.starts}\n"
        "        request.outputs.update({i: count + before.get(i, 0) for i, count in fact.outputs})\n",
    ),
    Mutant(
        "sequences that ended before a resume are not counted",
        REQUESTS,
        "        request.outputs.update(fact.finished)\n",
        "",
    ),
    Mutant(
        "a preempted stream never asks for all its pages at once",
        DISPATCH,
        "full_need=request.preemptions >= 2",
        "full_need=False",
    ),
    Mutant(
        "a target is not released",
        DISPATCH,
        "for name in (request.target, request.source):",
        "for name in (request.source,):",
    ),
    Mutant(
        "a source is not released",
        DISPATCH,
        "for name in (request.target, request.source):",
        "for name in (request.target,):",
        test="tests/core/test_control.py",
    ),
    Mutant(
        "a death of the target breaks no stream",
        REQUESTS,
        "            return\n        self.drain(request)\n",
        "            return\n",
    ),
    Mutant(
        "a death of the source is not told",
        REQUESTS,
        "        self.outbox.append(Send(to=request.target, fact=fact))\n",
        "",
    ),
    Mutant(
        "a client that left is served on",
        REQUESTS,
        '        self._end(request, "client_gone", "client_gone")\n',
        "        return\n",
        test="tests/core/test_control.py",
    ),
    Mutant(
        "requests of a lost door run on",
        REQUESTS,
        '                self._end(request, "door_lost", "door_lost")\n',
        "                pass\n",
        test="tests/core/test_control.py",
    ),
    Mutant(
        "a deadline is ignored",
        REQUESTS,
        '        self._end(request, "deadline", "deadline")\n',
        "        return\n",
        seed="mixed-3",
    ),
    Mutant(
        "the line has no limit",
        DISPATCH,
        "if waiting >= self.config.queue_max:",
        "if False:",
        test="tests/core/test_control_stories.py",
    ),
    Mutant(
        "priority is ignored",
        DISPATCH,
        "(-waiting.arrived.priority, waiting.arrived_ns)",
        "(waiting.arrived_ns,)",
        test="tests/core/test_control_stories.py",
    ),
    Mutant(
        "nobody waits for numerics in vain",
        DISPATCH,
        "                request.exact = False\n",
        "",
        test="tests/core/test_control_stories.py",
    ),
    Mutant("a silent worker is never fenced", FLEET, "not view.fenced and view.heard_ns <= limit", "False"),
    Mutant(
        "no lease ends",
        FLEET,
        "self.lease_end_ns = min(self.lease_end_ns, now_ns + self.config.lease_ns)",
        "pass",
        test="tests/core/test_control.py",
    ),
    Mutant(
        "the time that control stood still counts against workers",
        FLEET,
        "view.heard_ns += duration_ns",
        "pass",
        test="tests/core/test_control.py",
    ),
    Mutant(
        "a fenced worker is given requests",
        FLEET,
        "if v.granted and not v.fenced and",
        "if v.granted and",
        test="tests/core/test_router.py",
    ),
    Mutant(
        "a worker without pages is given requests",
        FLEET,
        "if v.granted and not v.fenced and",
        "if not v.fenced and",
        test="tests/core/test_router.py",
    ),
    Mutant("claimed pages of a dead worker are granted", ESTATE, "        taken.update(heirs)\n", ""),
    Mutant(
        "gifts under way are granted to others", ESTATE, "        taken.update(self._on_their_way())\n", ""
    ),
    Mutant(
        "gifts that arrived count as under way",
        ESTATE,
        "if serial > self.received.get",
        "if serial >= self.received.get",
        test="tests/core/test_estate.py",
    ),
    Mutant(
        "an heir does not own what it inherits",
        ESTATE,
        "inherited = [page for page in mine if heirs[page] == worker]",
        "inherited = []",
    ),
    Mutant(
        "who lost an owner claims from nobody",
        ESTATE,
        "        for page in mine:\n            if heirs[page] != worker:\n",
        "        for page in mine:\n            if False:\n",
        test="tests/core/test_estate.py",
    ),
    Mutant(
        "heirs are not paid",
        ESTATE,
        "deposits=to_extents(self._pop(sum(len(pages) for pages in lent.values()))),",
        "deposits=(),",
        test="tests/core/test_estate.py",
    ),
    Mutant(
        "an estate is settled before all have spoken",
        ESTATE,
        "            if any(self.settling.values()):\n                return\n",
        "",
    ),
    Mutant(
        "a new control grants before it knows the owners",
        ESTATE,
        "if self.expected or not self.pool_pages:",
        "if not self.pool_pages:",
    ),
    Mutant(
        "debts paid to control are lost",
        ESTATE,
        "            self.unowned.extend(fact.pages)\n",
        "            pass\n",
        test="tests/core/test_estate.py",
    ),
    Mutant("what a dead worker owed stays lost", ESTATE, "        if fact.short:\n", "        if False:\n"),
    Mutant(
        "prompt work stays on the books for ever",
        DISPATCH,
        "self.fleet.workers[name].pending_tokens -= tokens",
        "pass",
    ),
)
