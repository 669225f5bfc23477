"""What copies pages between the pools of unlike hosts: one small interface, and the words of its reports.

The reader pulls. An owner opens a claim for one reader and hands the claim's *capability*, 128 random bits,
to that reader over the authenticated control channel; whoever shows it may read the claim's pages until the
claim is closed, and nothing else. A copy proves nothing by itself: the reader's machine asks the owner's
afterwards whether the claim held (`diptych.core.worker.grants`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = ["Converter", "Endpoint", "PairReport", "Pairing", "PullDone", "PullOrder", "Region", "Transport"]


class Endpoint(msgspec.Struct, frozen=True):
    """Where the workers of other hosts find this one's pages."""

    transport: str
    """Name of the transport: `tcp`, `nixl`, ..."""
    address: str
    port: int
    worker: str
    """The incarnation that serves them: another one at the same port is not taken for it."""


class Region(msgspec.Struct, frozen=True):
    """Whole pages in memory of this host, page i at i * page_bytes."""

    memory: memoryview
    page_bytes: int
    device: str = "host"
    """`host`, or the device whose memory it is."""

    @property
    def pages(self) -> int:
        return len(self.memory) // self.page_bytes


class PullOrder(msgspec.Struct, frozen=True):
    """Copy `pages` of the source into `into` here, in token order."""

    source: Endpoint
    claim: int
    capability: bytes
    pages: tuple[int, ...]
    into: tuple[int, ...]


class PullDone(msgspec.Struct, frozen=True):
    """The one answer to an order: nothing of it is written any more."""

    worker: str
    """The source's incarnation."""
    claim: int
    bytes_moved: int
    failure: str = ""
    """Why not all bytes are here and whole; empty where they are."""


class PairReport(msgspec.Struct, frozen=True):
    """What a pair of workers turned out to be when it first met."""

    worker: str
    provider: str
    """What really carries the bytes: `tcp`, `tcp+tls`, `UCX`, ..."""
    device: str
    bytes_per_s: float
    """Measured at pairing."""
    conversion: str
    """`none`, what is converted and by whom, or the refusal."""
    checksum: str
    """`xxh3-64`, or `off`."""
    slower_than: str = ""
    """The transport that was preferred and could not be had: a fallback is never silent."""


class Converter(Protocol):
    """Executes a conversion plan of one pair (see `diptych.conversion`)."""

    def run(
        self, source: memoryview, source_pages: Sequence[int], target: memoryview, target_pages: Sequence[int]
    ) -> None: ...


class Pairing(msgspec.Struct, frozen=True):
    """What the reader makes of a source's KV format."""

    refusal: str = ""
    """Names the field that differs; empty where the pair is possible."""
    converter: Converter | None = None
    """None: the pages are the same on both sides, and go where they belong without a stop."""
    source_page_bytes: int = 0
    source_batch: int = 1
    """Pages of the source that convert as a whole: a border of both page sizes lies behind them."""
    target_batch: int = 1
    conversion: str = "none"


class Transport(Protocol):
    """One worker's end. Methods return at once and may be called from one thread; what is over is said by
    `completed`, when `fileno` is readable."""

    name: str

    def endpoint(self) -> Endpoint: ...

    def open_claim(self, claim: int, reader: str, pages: Sequence[int]) -> bytes:
        """Serves these pages to the reader from now on; returns the capability."""
        ...

    def close_claim(self, claim: int) -> None:
        """Serves nothing more under it. An unknown claim is no error."""
        ...

    def pull(self, order: PullOrder) -> None:
        """Begins a copy; exactly one `PullDone` will say how it ended."""
        ...

    def cancel(self, worker: str, claim: int) -> None:
        """Stops a copy soon; its `PullDone` says `cancelled`. One that is over is no error."""
        ...

    def forget(self, worker: str) -> None:
        """The source is dead: what is open with it fails, and nothing is kept for it. A stranger is no
        error."""
        ...

    def fileno(self) -> int:
        """Readable while `completed` has something to tell."""
        ...

    def completed(self) -> list[PullDone]: ...

    def reports(self) -> list[PairReport]: ...

    def close(self) -> None:
        """Ends all copies and stops serving. Unanswered orders stay so."""
        ...
