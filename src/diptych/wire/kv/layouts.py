"""Named layouts: how the engines we know order a page. Each function gives a `KvFormat`. Pure."""

from __future__ import annotations

import msgspec

from diptych.wire.kv.record import Factor, Group, HeadRange, KvFormat, Layout, Scales

__all__ = ["LAYOUTS", "hnd", "llama_cpp", "nhd", "panels", "shard", "vllm_cpu"]


def panels(*, model: str, layers: int, kv_heads: int, head_dim: int, page_tokens: int = 16) -> KvFormat:
    """The native kernels' bf16 layout: a page is [layer][K, V][head] blocks.

    K block: [dim / 2][token][2], element (token t, dim d) at (d // 2) * 2T + 2t + d % 2.
    V block: [token / 2][dim][2], element (token t, dim d) at (t // 2) * 2D + 2d + t % 2.
    Scores and weighted sums are then pure pairwise bf16 dot products without horizontal sums.
    """
    outer = (Factor("layer", layers), Factor("kv", 2), Factor("head", kv_heads))
    key = (Factor("dim", head_dim // 2, 2), Factor("token", page_tokens), Factor("dim", 2))
    value = (Factor("token", page_tokens // 2, 2), Factor("dim", head_dim), Factor("token", 2))
    layout = Layout(key=outer + key, value=outer + value)
    return _format(model, layers, kv_heads, head_dim, page_tokens, "bfloat16", layout)


def nhd(
    *,
    model: str,
    layers: int,
    kv_heads: int,
    head_dim: int,
    page_tokens: int = 16,
    dtype: str = "bfloat16",
    regions: str = "",
    interleaved_keys: bool = False,
    rope_applied: bool = True,
) -> KvFormat:
    """[layer][K, V][token][head][dim]. `regions`: what lies in memory of its own, "" (nothing), "layer",
    or "layer kv". `interleaved_keys`: K's rotary pairs (d, d + D/2) lie side by side.

    Types of 8 bits get a scale for each token and head, ordered [layer][K, V][token][head].
    """
    order = ("layer", "kv", "token", "head", "dim")
    made = _plain(order, model, layers, kv_heads, head_dim, page_tokens, dtype, regions, interleaved_keys)
    return msgspec.structs.replace(made, rope_applied=rope_applied)


def hnd(
    *,
    model: str,
    layers: int,
    kv_heads: int,
    head_dim: int,
    page_tokens: int = 16,
    dtype: str = "bfloat16",
    regions: str = "",
    interleaved_keys: bool = False,
    rope_applied: bool = True,
) -> KvFormat:
    """[layer][K, V][head][token][dim]; as `nhd` in all else."""
    order = ("layer", "kv", "head", "token", "dim")
    made = _plain(order, model, layers, kv_heads, head_dim, page_tokens, dtype, regions, interleaved_keys)
    return msgspec.structs.replace(made, rope_applied=rope_applied)


def vllm_cpu(
    *, model: str, layers: int, kv_heads: int, head_dim: int, page_tokens: int = 128, dtype: str = "float32"
) -> KvFormat:
    """vLLM's CPU attention, 0.32 on an AVX-512 machine: a tensor for each layer, in which each (block,
    head) holds K transposed, [dim][token], and then V, [token][dim]. Other versions and instruction sets
    may pack otherwise: prove it with a probe before you trust it."""
    outer = (Factor("layer", layers), Factor("head", kv_heads), Factor("kv", 2))
    token, dim = Factor("token", page_tokens), Factor("dim", head_dim)
    layout = Layout(key=(*outer, dim, token), value=(*outer, token, dim), region_factors=1)
    return _format(model, layers, kv_heads, head_dim, page_tokens, dtype, layout)


def llama_cpp(
    *,
    model: str,
    layers: int,
    kv_heads: int,
    head_dim: int,
    page_tokens: int,
    dtype: str = "float16",
    transposed_values: bool = False,
    interleaved_keys: bool = True,
) -> KvFormat:
    """One sequence's state in llama.cpp (0.3.36): rows [head][dim] of K for each layer, then of V, each
    layer's rows a region. K of llama-family models is pair-interleaved there.

    `page_tokens` may be chosen freely; with `transposed_values` (flash attention off), where V lies
    [head][dim][cell], it must be the number of cells.
    """
    outer = (Factor("kv", 2), Factor("layer", layers))
    token, head = Factor("token", page_tokens), Factor("head", kv_heads)
    key = (*outer, token, head, *_dims(head_dim, interleaved_keys))
    dim = Factor("dim", head_dim)
    value = (*outer, head, dim, token) if transposed_values else (*outer, token, head, dim)
    layout = Layout(key=key, value=value, region_factors=2)
    return _format(model, layers, kv_heads, head_dim, page_tokens, dtype, layout)


LAYOUTS = {"panels": panels, "nhd": nhd, "hnd": hnd, "vllm_cpu": vllm_cpu, "llama_cpp": llama_cpp}


def shard(whole: KvFormat, rank: int, degree: int) -> KvFormat:
    """What rank `rank` of `degree` tensor-parallel ranks holds of `whole`: an even part of the heads, or
    one head on several ranks where there are more ranks than heads.

    Raises `ValueError` where `degree` and the number of heads do not divide, or where K has the heads
    outside of `kv` and V inside, which works by chance of equal extents and not for a part of them.
    """
    group = whole.group
    heads = group.kv_heads
    if not 0 <= rank < degree or (heads % degree and degree % heads):
        raise ValueError(f"rank {rank} of {degree}: {heads} heads cannot be shared out so")
    count = max(1, heads // degree)
    own = HeadRange(rank * heads // degree, count)

    def narrowed(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
        return tuple(Factor("head", count) if f.axis == "head" else f for f in factors)

    layout = msgspec.structs.replace(
        group.layout, key=narrowed(group.layout.key), value=narrowed(group.layout.value)
    )
    scales = group.scales and Scales(factors=narrowed(group.scales.factors))
    part = msgspec.structs.replace(group, heads=own, layout=layout, scales=scales)
    made = msgspec.structs.replace(whole, groups=(part,))
    made.check()
    return made


def _plain(
    order: tuple[str, ...],
    model: str,
    layers: int,
    kv_heads: int,
    head_dim: int,
    page_tokens: int,
    dtype: str,
    regions: str,
    interleaved_keys: bool,
) -> KvFormat:
    lead = len(regions.split())
    if regions.split() != list(order[:lead]):
        raise ValueError(f"regions: {regions!r} is none of '', 'layer', 'layer kv'")
    extents = {"layer": layers, "kv": 2, "head": kv_heads, "token": page_tokens}
    outer = tuple(Factor(axis, extents[axis]) for axis in order[:-1])
    layout = Layout(
        key=outer + _dims(head_dim, interleaved_keys),
        value=(*outer, Factor("dim", head_dim)),
        region_factors=lead,
    )
    scales = Scales(factors=outer) if dtype in ("int8", "float8_e4m3") else None
    return _format(model, layers, kv_heads, head_dim, page_tokens, dtype, layout, scales)


def _dims(head_dim: int, interleaved: bool) -> tuple[Factor, ...]:
    if not interleaved:
        return (Factor("dim", head_dim),)
    return (Factor("dim", head_dim // 2), Factor("dim", 2, head_dim // 2))


def _format(
    model: str,
    layers: int,
    kv_heads: int,
    head_dim: int,
    page_tokens: int,
    dtype: str,
    layout: Layout,
    scales: Scales | None = None,
) -> KvFormat:
    """Raises `ValueError` naming the field where the numbers make no format."""
    group = Group(
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        page_tokens=page_tokens,
        layout=layout,
        scales=scales,
    )
    made = KvFormat(model=model, groups=(group,))
    made.check()
    return made
