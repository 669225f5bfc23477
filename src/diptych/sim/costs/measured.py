"""Costs by what `diptych profile` measured: tables over (tokens, context) and (sequences, context).

Between points lines are drawn over tokens and sequences. Over context the decode table is fitted by lines
of one slope, and the prompt table by one factor: attention of a token is linear in the positions before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from diptych.sim.costs.model import PS_PER_NS, BadCosts, Curve, DecodePoint, PromptPoint, Spans

_POINTS_MAX = 10_000


class MixedPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of one prompt span and decoding sequences, to see what they share."""

    tokens: int
    sequences: int
    context: int
    ns: int


class MeasuredCosts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="measured", dict=True
):
    prompt: tuple[PromptPoint, ...]
    decode: tuple[DecodePoint, ...]
    mixed: tuple[MixedPoint, ...] = ()
    sample_ns: int = 0
    """What first tokens add to a step with the ends of their prompts where no other sequence decodes."""

    def __post_init__(self) -> None:
        for name, count in (("prompt", len(self.prompt)), ("decode", len(self.decode))):
            if not 1 <= count <= _POINTS_MAX:
                raise BadCosts(f"{name}: {count} points; 1 to {_POINTS_MAX}")
        points: tuple[PromptPoint | DecodePoint | MixedPoint, ...] = (*self.prompt, *self.decode, *self.mixed)
        for point in points:
            if point.ns < 1 or min(msgspec.structs.astuple(point)) < 0:
                raise BadCosts(f"{point}: counts are at least 0, ns at least 1")
        if self.sample_ns < 0:
            raise BadCosts(f"sample_ns: {self.sample_ns}; at least 0")
        fresh = sorted({point.tokens: point for point in self.prompt if point.context == 0}.items())
        if not fresh or fresh[0][0] < 1:
            raise BadCosts("prompt: at least one point with context 0 and 1 token or more")
        self.__dict__["_fresh"] = Curve([(tokens, point.ns * PS_PER_NS) for tokens, point in fresh])
        self.__dict__["_pair_ps"] = self._fit_attention()
        bases, slope = self._fit_decode()
        self.__dict__["_base"] = Curve(bases)
        self.__dict__["_position_ps"] = int(slope)
        self.__dict__["_lines"] = {}
        self.__dict__["_shared_ps"] = self._fit_shared()

    def _fit_attention(self) -> float:
        """ps for each (token, position before its span): least squares through the origin."""
        fresh: Curve = self.__dict__["_fresh"]
        over = under = 0.0
        for point in self.prompt:
            if point.context:
                pairs = float(point.tokens) * point.context
                over += pairs * (point.ns * PS_PER_NS - fresh.at(point.tokens))
                under += pairs * pairs
        return max(0.0, over / under) if under else 0.0

    def _fit_decode(self) -> tuple[list[tuple[float, float]], float]:
        """(sequences, ps at no context) of each row, and ps for each token of context of them all: one for
        the table, because a position is read alike in every batch, and a row has few points."""
        rows: dict[int, list[tuple[float, float]]] = {}
        for point in self.decode:
            read = float(point.sequences * point.context)
            rows.setdefault(point.sequences, []).append((read, float(point.ns * PS_PER_NS)))
        centres = {
            sequences: (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
            for sequences, points in sorted(rows.items())
        }
        over = under = 0.0
        for sequences, (mean_x, mean_y) in centres.items():
            over += sum((x - mean_x) * (y - mean_y) for x, y in rows[sequences])
            under += sum((x - mean_x) ** 2 for x, _ in rows[sequences])
        slope = max(0.0, over / under) if under else 0.0
        bases = [
            (float(sequences), max(0.0, mean_y - slope * mean_x))
            for sequences, (mean_x, mean_y) in centres.items()
        ]
        return bases, slope

    def _fit_shared(self) -> float:
        """What a mixed step saves against its two halves, as a share of the smaller one."""
        shares = []
        for point in self.mixed:
            prompt = self.prompt_ps([(point.context, point.tokens)])
            base, slope = self.decode_line(point.sequences)
            decode = base + slope * point.sequences * point.context
            saved = prompt + decode - point.ns * PS_PER_NS
            shares.append(min(1.0, max(0.0, saved / min(prompt, decode))))
        return sum(shares) / len(shares) if shares else 0.0

    @property
    def sample_ps(self) -> int:
        return self.sample_ns * PS_PER_NS

    def prompt_ps(self, spans: Spans) -> int:
        tokens = pairs = 0
        for first, count in spans:
            tokens += count
            pairs += first * count
        return int(self.__dict__["_fresh"].at(tokens) + pairs * self.__dict__["_pair_ps"])

    def decode_line(self, sequences: int) -> tuple[int, int]:
        lines: dict[int, tuple[int, int]] = self.__dict__["_lines"]
        if sequences not in lines:
            base: float = self.__dict__["_base"].at(sequences)
            lines[sequences] = (int(base), self.__dict__["_position_ps"])
        return lines[sequences]

    def mixed_ps(self, spans: Spans, sequences: int, context_tokens: int) -> int:
        prompt = self.prompt_ps(spans)
        base, slope = self.decode_line(sequences)
        decode = base + slope * context_tokens
        return prompt + decode - int(min(prompt, decode) * self.__dict__["_shared_ps"])


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(intercept, slope) by least squares; a slope below 0 is noise and becomes 0."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = max(0.0, slope)
    return max(0.0, mean_y - slope * mean_x), slope
