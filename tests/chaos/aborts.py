"""Very many clients that hang up at random moments: nothing of their requests may stay anywhere."""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from asked import Body, Size, bodies_of
from episode import Episode
from stage import Stage

ABORT = "clients abort at random moments"
AT_ONCE = 24
LIMIT_S = 60.0
READ_BYTES = 65536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: the connection is reset instead of ended in order."""


def abort_many(stage: Stage, count: int, longest_s: float, seed: int, tell: Callable[[], None]) -> Episode:
    """`count` aborts, each after a random time of at most `longest_s`, then a look at what is left."""
    begun_s = time.monotonic()
    stage.mark()
    # That of asking for it.
    usual = _in_flight(stage)
    left = iter(range(count))
    lock = threading.Lock()
    wrong: list[str] = []

    def client() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            words = _abort(stage, random.Random(f"{seed} {number}"), longest_s)
            with lock:
                wrong.extend([words] if words else [])
                tell()

    clients = [threading.Thread(target=client, daemon=True) for _ in range(AT_ONCE)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    wrong.append(stage.settle())
    wrong += [f"{name} ended" for name in stage.gone()]
    in_flight = _in_flight(stage) - usual
    wrong.append("" if in_flight == 0 else f"{in_flight:g} requests in flight at the door")
    return Episode(
        fault=ABORT,
        setting=stage.setting.name,
        moment="any",
        hit=True,
        touched=count,
        lost=[],
        different=[],
        wrong=[words for words in wrong if words],
        delays_s=[],
        work_s=[],
        allowed_s=0.0,
        seconds=time.monotonic() - begun_s,
    )


def _abort(stage: Stage, dice: random.Random, longest_s: float) -> str:
    """One request and the end of its client; in words what the server refused it for, if it did."""
    body = _body(dice, stage.setting.size) | {"model": stage.model, "stream": True}
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: chaos\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    end_s = time.monotonic() + dice.random() * longest_s
    with socket.create_connection(("127.0.0.1", stage.fleet.port), timeout=LIMIT_S) as client:
        if dice.random() < 0.5:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.sendall(head.encode() + data)
        reads = dice.random() < 0.8
        first = b""
        while (rest_s := end_s - time.monotonic()) > 0:
            if not reads:
                time.sleep(rest_s)
            elif select.select([client], [], [], rest_s)[0]:
                with contextlib.suppress(ConnectionResetError):
                    data = client.recv(READ_BYTES)
                first = first or data
                if not data or b"data: [DONE]" in data:
                    break
    status = first[9:12]
    return "" if not first or status in (b"200", b"429") else f"answered {first[:200]!r}"


def _body(dice: random.Random, size: Size) -> Body:
    """One of a group's; some groups come again and again, so that pages are shared and cached."""
    number = dice.choice((dice.randrange(8), dice.randrange(1 << 30)))
    return dice.choice(bodies_of(number, size))


def _in_flight(stage: Stage) -> float:
    for line in stage.fleet.text("/metrics").splitlines():
        if line.startswith("diptych_requests_in_flight "):
            return float(line.split()[1])
    raise LookupError("diptych_requests_in_flight is no metric of the door")
