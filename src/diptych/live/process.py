"""What every child process does first and last: its host link, its death with the parent, its logs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from diptych.core.facts import Fact
from diptych.live.host_link import die_with_parent, receive_packet
from diptych.live.launch import HostMessage

log = logging.getLogger(__name__)

Main = Callable[[socket.socket, HostMessage | Fact, list[int]], Coroutine[Any, Any, int]]


def run_child(main: Main, argv: Sequence[str] | None = None) -> None:
    """Runs `main(host link, first message, its descriptors)` and ends the process with its exit code.

    An exception in a callback ends the process too: a machine whose actions were performed in part is
    not the one that its peers know, and a fresh one is a moment away."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host-fd", type=int, required=True)
    arguments = parser.parse_args(argv)
    die_with_parent()
    logging.basicConfig(
        level=os.environ.get("DIPTYCH_LOG", "WARNING"),
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    end = socket.socket(fileno=arguments.host_fd)
    end.set_inheritable(False)
    try:
        first, descriptors = receive_packet(end)
    except EOFError:
        sys.exit(1)

    async def guarded() -> int:
        asyncio.get_running_loop().set_exception_handler(_broken)
        return await main(end, first, descriptors)

    # Whatever threads of libraries still do, the process is over: nothing waits for them.
    code = asyncio.run(guarded())
    logging.shutdown()
    os._exit(code)


def _broken(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    loop.default_exception_handler(context)
    logging.shutdown()
    os._exit(70)
