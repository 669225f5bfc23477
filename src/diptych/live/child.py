"""A child process of the supervisor: started with its host link, watched by its pidfd, reaped once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from diptych.core.facts import Fact
from diptych.core.ids import CONTROL
from diptych.live.host_link import HostLink, socket_pair
from diptych.live.launch import Connected, HostMessage

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
"""Libraries that would start a thread a core in every process; engines are told their own number."""


class Child:
    """One running process. `received` gets its messages, `reaped` is called after it is gone for good."""

    def __init__(
        self,
        module: str,
        identity: str,
        *,
        received: Callable[[Child, HostMessage | Fact, list[int]], None],
        reaped: Callable[[Child, int], None],
        core: int | None = None,
    ) -> None:
        self.identity = identity
        """Incarnation of the process: what it is called in facts."""
        self.module = module
        self.alive = True
        self.launched = False
        """It was told what it is; before that it only imports its modules."""
        self.served = False
        """It has built what it serves with: from then on silence is a failure."""
        self.failure: str | None = None
        """Why starting it again will not help, if it said so."""
        self._reaped = reaped
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket_pair()
        command = [sys.executable, "-m", module, "--host-fd", str(theirs.fileno())]
        environment = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {"TOKENIZERS_PARALLELISM": "false"}
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                process_group=0,
                env=environment,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.started_s = self._loop.time()
        if core is not None:
            os.sched_setaffinity(self.pid, {core})
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._exited)
        self.link = HostLink(ours, lambda message, fds: received(self, message, fds), lambda: None)

    def kill(self) -> None:
        """SIGKILL, stopped or not; `reaped` follows."""
        if self.alive:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _exited(self) -> None:
        code = self._process.wait()
        self.alive = False
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.link.drain()
        self.link.close()
        self._reaped(self, code)


def connect(one: Child, other: Child, control_epoch: int) -> None:
    """Hands each of the two an end of a new socket pair."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for child, peer, end in ((one, other, ends[0]), (other, one, ends[1])):
        epoch = control_epoch if peer.identity == CONTROL else 0
        kind = peer.module.rpartition(".")[2]
        child.link.send(Connected(peer=peer.identity, kind=kind, epoch=epoch), (end.fileno(),))
        end.close()
