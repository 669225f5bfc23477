"""The router's reasons in words, for people who ask about one request."""

from __future__ import annotations

from diptych.core.facts import RouteReasons


def in_words(reasons: RouteReasons | None) -> tuple[str, ...]:
    """One sentence for the target, for the source and for the price; none where nothing was chosen."""
    if reasons is None:
        return ()
    words = [
        f"{reasons.target} computes {reasons.own_tokens} tokens at {_ms(reasons.target_rate_ns)} each,"
        f" behind {reasons.target_queue_tokens} others, beside {reasons.target_streams} streams"
    ]
    if reasons.held_tokens:
        words.append(f"{reasons.target} holds {reasons.held_tokens} tokens")
    if reasons.source is not None:
        words.append(
            f"{reasons.source} computes {reasons.source_tokens} tokens at {_ms(reasons.source_rate_ns)} each"
            f" (last measured: {_ms(reasons.source_measured_ns)}), behind {reasons.source_queue_tokens}"
            f" others, and caches {reasons.source_cached_tokens};"
            f" the handoff takes {_ms(reasons.handoff_ns)}"
        )
    cost = f"predicted cost {_ms(reasons.cost_ns)}"
    if reasons.other_ns is not None:
        other = "without a source" if reasons.source is not None else "with the best source"
        cost += f", {other} {_ms(reasons.other_ns)}"
    return (*words, cost)


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:.2f} ms"
