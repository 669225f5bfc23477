"""Costs by a hardware description: each part of a step takes the longer of its arithmetic and its bytes.

Per part, as in the roofline model (Williams, Waterman, Patterson, 2009), and added up over two parts:
the weights' matrix products (2 operations for each parameter and row, the weights read once a step) and
attention (4 operations for each query head, position and dimension; KV of the positions read once a
sequence). Nothing overlaps between the parts; what else a step takes is `step_overhead_ns`.
"""

from __future__ import annotations

import msgspec

from diptych.sim.costs.model import PS_PER_NS, PS_PER_S, BadCosts, Spans


class Geometry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the roofline needs to know of a model."""

    parameters: float
    """That a token passes through: without the input embedding, and for experts the active ones."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    weight_bytes: float
    """That a step reads: parameters by the bytes of each."""
    kv_element_bytes: float = 2.0

    @property
    def kv_token_bytes(self) -> float:
        return 2.0 * self.layers * self.kv_heads * self.head_dim * self.kv_element_bytes


class RooflineCosts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="roofline", dict=True
):
    flops_per_s: float
    bytes_per_s: float
    compute_efficiency: float = 1.0
    """Reached share of `flops_per_s`."""
    memory_efficiency: float = 1.0
    step_overhead_ns: int = 0
    model: Geometry

    def __post_init__(self) -> None:
        for name in ("compute_efficiency", "memory_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise BadCosts(f"{name}: {getattr(self, name)}; more than 0, at most 1")
        for owner, names in (
            (self, ("flops_per_s", "bytes_per_s")),
            (self.model, self.model.__struct_fields__),
        ):
            for name in names:
                if not getattr(owner, name) > 0:
                    raise BadCosts(f"{name}: {getattr(owner, name)}; more than 0")
        if self.step_overhead_ns < 0:
            raise BadCosts(f"step_overhead_ns: {self.step_overhead_ns}; at least 0")
        operation_ps = PS_PER_S / (self.flops_per_s * self.compute_efficiency)
        byte_ps = PS_PER_S / (self.bytes_per_s * self.memory_efficiency)
        model = self.model
        pair_flops = 4.0 * model.layers * model.heads * model.head_dim
        self.__dict__["_row_ps"] = 2.0 * model.parameters * operation_ps
        self.__dict__["_weights_ps"] = model.weight_bytes * byte_ps
        self.__dict__["_pair_ps"] = pair_flops * operation_ps
        self.__dict__["_read_ps"] = model.kv_token_bytes * byte_ps

    def _products(self, rows: int) -> float:
        longer: float = max(rows * self.__dict__["_row_ps"], self.__dict__["_weights_ps"])
        return longer + self.step_overhead_ns * PS_PER_NS

    def _attention(self, spans: Spans) -> float:
        total = 0.0
        for first, count in spans:
            pairs = count * (first + (count + 1) / 2)
            total += max(pairs * self.__dict__["_pair_ps"], (first + count) * self.__dict__["_read_ps"])
        return total

    @property
    def sample_ps(self) -> int:
        """Counted with the step's products already."""
        return 0

    def prompt_ps(self, spans: Spans) -> int:
        return int(self._products(sum(count for _, count in spans)) + self._attention(spans))

    def decode_line(self, sequences: int) -> tuple[int, int]:
        return int(self._products(sequences)), int(max(self.__dict__["_pair_ps"], self.__dict__["_read_ps"]))

    def mixed_ps(self, spans: Spans, sequences: int, context_tokens: int) -> int:
        rows = sequences + sum(count for _, count in spans)
        read = max(self.__dict__["_pair_ps"], self.__dict__["_read_ps"]) * context_tokens
        return int(self._products(rows) + self._attention(spans) + read)
