"""What a message that names pages takes between two processes of this machine."""

from __future__ import annotations

import os
import socket
import time

from diptych.core.facts import OfferAnswered, PagesOffered
from diptych.sim.costs.file import LinkCosts
from diptych.sim.costs.measured import fit_line
from diptych.wire.frames import FrameBuffer
from diptych.wire.messages import Told, decode, encode


def measure_link(rounds: int = 200) -> LinkCosts:
    """What an offer of pages and its answer take between two processes of this machine, each way."""
    points = []
    for pages in (1, 64, 512):
        mine, theirs = socket.socketpair()
        child = os.fork()
        if not child:
            try:
                mine.close()
                _answer(theirs, rounds)
            finally:
                os._exit(0)
        theirs.close()
        with mine:
            points.append((float(pages), _round_trip_ns(mine, pages, rounds) / 2))
        os.waitpid(child, 0)
    latency_ns, page_ns = fit_line(points)
    return LinkCosts(latency_ns=round(latency_ns), page_ns=round(page_ns))


def _round_trip_ns(end: socket.socket, pages: int, rounds: int) -> float:
    offer = PagesOffered(request="r", attempt=1, sender="a@1", first_page=0, pages=tuple(range(pages)))
    reader, taken = FrameBuffer(), []
    for _ in range(rounds):
        started_ns = time.monotonic_ns()
        end.sendall(encode(Told(offer)))
        _receive(end, reader)
        taken.append(time.monotonic_ns() - started_ns)
    return sorted(taken)[rounds // 2]


def _answer(end: socket.socket, rounds: int) -> None:
    reader = FrameBuffer()
    for _ in range(rounds):
        offer = _receive(end, reader).fact
        assert isinstance(offer, PagesOffered)
        answer = OfferAnswered(
            request=offer.request,
            attempt=offer.attempt,
            sender="b@1",
            first_page=0,
            kept=offer.pages,
            deposit=offer.pages,
            serial=1,
        )
        end.sendall(encode(Told(answer)))


def _receive(end: socket.socket, reader: FrameBuffer) -> Told:
    while data := end.recv(1 << 16):
        for body in reader.receive(data):
            message = decode(body)
            assert isinstance(message, Told)
            return message
    raise OSError("the other end of the measured socket is gone")
