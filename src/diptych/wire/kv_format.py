"""What the bytes of a KV page mean. Two workers hand pages over only where their formats agree.

A page holds `page_tokens` consecutive tokens of every layer of one group, layer-major. Inside a page
the order of the elements is a list of factors, slowest first, over the axes layer, K or V, head,
token and dim; K and V may order their block differently. Issue-level conversion between unlike
formats belongs in this room as well; so far equal formats hand over and others are refused by field.
"""

from __future__ import annotations

import msgspec

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Factor(msgspec.Struct, frozen=True):
    """One loop of a layout: `extent` consecutive steps along `axis`, each `stride` elements of it."""

    axis: str
    """`token` or `dim`."""
    extent: int
    stride: int


class KvFormat(msgspec.Struct, frozen=True, kw_only=True):
    """Format of one group of layers; see DESIGN idea 7."""

    model: str
    """Fingerprint of the model's configuration and weights (not of a numerics choice)."""
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    page_tokens: int
    key_block: tuple[Factor, ...]
    """Order of one (layer, head) block of K, slowest factor first."""
    value_block: tuple[Factor, ...]
    rope_applied: bool = True
    version: int = 1

    @property
    def block_elements(self) -> int:
        """Elements of K (or of V) of one layer and head in one page."""
        return self.page_tokens * self.head_dim

    @property
    def page_bytes(self) -> int:
        return 2 * self.layers * self.kv_heads * self.block_elements * DTYPE_BYTES[self.dtype]

    def difference(self, other: KvFormat) -> str | None:
        """Name of the first field in which `other` differs, or None where pages may be shared."""
        for field in self.__struct_fields__:
            if getattr(self, field) != getattr(other, field):
                return field
        return None


def panels(*, model: str, layers: int, kv_heads: int, head_dim: int, page_tokens: int = 16) -> KvFormat:
    """The native kernels' bf16 layout: a page is [layer][K, V][head] blocks.

    K block: [dim / 2][token][2], element (token t, dim d) at (d // 2) * 2T + 2t + d % 2.
    V block: [token / 2][dim][2], element (token t, dim d) at (t // 2) * 2D + 2d + t % 2.
    Scores and weighted sums are then pure pairwise bf16 dot products without horizontal sums.
    """
    return KvFormat(
        model=model,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype="bfloat16",
        page_tokens=page_tokens,
        key_block=(
            Factor("dim", head_dim // 2, 2),
            Factor("token", page_tokens, 1),
            Factor("dim", 2, 1),
        ),
        value_block=(
            Factor("token", page_tokens // 2, 2),
            Factor("dim", head_dim, 1),
            Factor("token", 2, 1),
        ),
    )
