"""TCP passes the public suite, with checksums and without, with one stream and three, and under TLS."""

from __future__ import annotations

import pytest

from diptych.testing.transport_rows import TRANSPORT_PROPERTIES, Pair, TransportBench
from diptych.transport.interface import Region, Transport
from diptych.transport.tcp import ReaderOptions, TcpTransport


@pytest.mark.parametrize("row", TRANSPORT_PROPERTIES, ids=lambda row: row.__name__)
@pytest.mark.parametrize(("checksums", "streams"), [(True, 2), (False, 1), (True, 3)])
def test_tcp_keeps_every_promise(row, checksums: bool, streams: int) -> None:
    def make(worker: str, region: Region, key: bytes, pair: Pair) -> Transport:
        options = ReaderOptions(worker, key, b"format", checksums=checksums, streams=streams)
        return TcpTransport(region, options, pair)

    bench = TransportBench(make, seed=1)
    try:
        row(bench)
    finally:
        bench.close()
