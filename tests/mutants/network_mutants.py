"""Bugs in what carries messages between hosts, and in how silence and time are judged."""

from __future__ import annotations

from mutant import Mutant

SESSION, DRIVER, FLEET = "wire/session.py", "live/driver.py", "core/control/fleet.py"
SESSION_TESTS, DRIVER_TESTS = "tests/wire/test_session.py", "tests/live/test_driver.py"

NETWORK_MUTANTS = (
    Mutant(
        "what a connection lost is never sent again",
        SESSION,
        "Packet(number, self._taken, body) for number, body in islice(held, RESEND_PACKETS_MAX)",
        "Packet(number, self._taken, body) for number, body in islice(held, 0)",
        seed="network-1",
    ),
    Mutant(
        "a message is acknowledged before those that it follows",
        SESSION,
        "return due, [Packet(0, self._taken)]",
        "return due, [Packet(0, packet.number)]",
        test=SESSION_TESTS,
    ),
    Mutant(
        "a message that comes again is taken again",
        SESSION,
        "            self.repeats += 1\n",
        "            self.repeats += 1\n            if packet.body is not None:\n"
        "                due.append(packet.body)\n",
        seed="hosts-1",
    ),
    Mutant(
        "a message is taken before those that it follows",
        SESSION,
        "            if len(self._early) < EARLY_MAX:\n",
        "            if packet.body is not None:\n                self._taken = packet.number\n"
        "                return [packet.body], []\n            if len(self._early) < EARLY_MAX:\n",
        test=SESSION_TESTS,
    ),
    Mutant(
        "patience never ends",
        SESSION,
        "self._patience = min(2 * self._patience, PATIENCE_MAX)",
        "self._patience = 2 * self._patience",
        test=SESSION_TESTS,
    ),
    Mutant(
        "a stall is counted from the deadline alone",
        DRIVER,
        "now_ns - self._armed_ns, now_ns\n",
        "now_ns - self._due_ns, now_ns\n",
        test=DRIVER_TESTS,
    ),
    Mutant(
        "one stall is said before every fact read after it",
        DRIVER,
        "now_ns - max(self._due_ns, self._armed_ns) > self._stall_ns",
        "now_ns - self._due_ns > self._stall_ns",
        test=DRIVER_TESTS,
    ),
    Mutant(
        "a quarter of a lease is silence enough",
        FLEET,
        "limit = now_ns - self.config.lease_ns",
        "limit = now_ns - self.config.lease_ns // 4",
    ),
    Mutant(
        "nobody waits for the deadline of a request",
        "core/control/requests.py",
        "            heappush(self._deadlines, (request.deadline_ns, request.arrived.request))\n",
        "            pass\n",
    ),
    Mutant(
        "a moment that has come stays a deadline where nobody is left",
        "core/control/dispatch.py",
        "        if not self.queue:\n            return\n",
        "        if not self.queue or not self.fleet.workers:\n            return\n",
        test="tests/core/test_control_stories.py",
    ),
    Mutant(
        "a pause that is lost with its worker is waited for",
        "core/control/requests.py",
        "request.paused_on = fact.worker",
        "pass",
        test="tests/core/test_control_stories.py",
    ),
    Mutant(
        "the next control calls every stream exact",
        "core/control/machine.py",
        "request.exact = open_request.exact",
        "pass",
        test="tests/core/test_new_control.py",
    ),
)
