"""Stop strings over the bytes of one sequence's output, however tokens cut them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

__all__ = ["ByteStops"]


class ByteStops:
    """Finds the stop string that is complete first; of several that end at one byte, the longest."""

    def __init__(
        self, stops: Sequence[bytes], token_bytes: Callable[[int], bytes], emitted: Iterable[int] = ()
    ) -> None:
        """`emitted`: the tokens so far, none of which completed a stop string."""
        self._stops = tuple(stops)
        self._token_bytes = token_bytes
        self._kept = max(map(len, self._stops), default=1) - 1
        self._tail = b""
        self._remember(b"".join(map(token_bytes, emitted)))

    def push(self, token: int) -> bytes | None:
        """The stop string that `token` completes, if any."""
        window = self._tail + self._token_bytes(token)
        found: bytes | None = None
        end = len(window) + 1
        for stop in self._stops:
            start = window.find(stop)
            if start < 0:
                continue
            stop_end = start + len(stop)
            if stop_end < end or (stop_end == end and found is not None and len(stop) > len(found)):
                found, end = stop, stop_end
        self._remember(window)
        return found

    def _remember(self, window: bytes) -> None:
        self._tail = window[len(window) - self._kept :] if self._kept < len(window) else window
