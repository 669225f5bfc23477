"""The loops of one conversion, from the layouts of both sides. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from diptych.wire.kv.loops import Loop, Place, axis_loops, common_tokens, join, place
from diptych.wire.kv.record import SCALE_BYTES, Factor, Group

__all__ = ["Cast", "Nest", "Side", "Work"]

ELEMENT_BYTES_MAX = 8
"""The kernels transpose elements of 1, 2, 4 and 8 bytes; longer ones are runs."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Where one side's bytes lie in its pages."""

    region: int
    offsets: tuple[int, ...]
    """Bytes from the page's start (in its region) to the first element, for each chunk of a page."""
    row_bytes: int = 0
    """From one token's dims to the next one's, where dims are contiguous; 0 where they are not."""
    scale_offsets: tuple[int, ...] = ()
    """As `offsets`, of the scales; empty where there are none."""
    scale_row_bytes: int = 0
    """From one token's scale to the next one's."""


class Cast(msgspec.Struct, frozen=True, kw_only=True):
    """The middle of a nest whose types differ; its loops are over blocks, [token][dim] in a tile."""

    gather: tuple[Loop, ...]
    """From the source to a tile in rows of the source's type; empty where rows are read in place."""
    scatter: tuple[Loop, ...]
    """From a tile in rows of the target's type to the target; empty where rows are written in place."""
    scale_strides: tuple[tuple[int, int], ...]
    """Bytes from one scale to the next on both sides, for each of the nest's loops."""


class Nest(msgspec.Struct, frozen=True, kw_only=True):
    """One nest of loops for each chunk of tokens."""

    source: Side
    target: Side
    loops: tuple[Loop, ...]
    run_bytes: int
    """Contiguous on both sides, inside all loops. For a cast, one element."""
    cast: Cast | None = None

    @property
    def transposes(self) -> bool:
        """Single elements that are neighbours in one loop here and in another one there."""
        return (
            self.cast is None
            and self.run_bytes <= ELEMENT_BYTES_MAX
            and self.loops[-1:] != ()
            and self.loops[-1].target_stride == self.run_bytes
            and any(loop.source_stride == self.run_bytes for loop in self.loops)
        )


class Work:
    """The nests of a copy between two groups over `heads` heads from `first_head` on."""

    def __init__(self, source: Group, target: Group, first_head: int, heads: int) -> None:
        self.groups = (source, target)
        self.casts = source.dtype != target.dtype or (source.scales is None) != (target.scales is None)
        self.heads = heads
        self.head_starts = tuple(first_head - group.head_range.first for group in self.groups)
        self.places = [
            (place(source, getattr(source.layout, part), source.element_bytes),
             place(target, getattr(target.layout, part), target.element_bytes))
            for part in ("key", "value")
        ]  # fmt: skip
        self.scale_places = tuple(_scale_place(group) for group in self.groups)
        pairs = list(self.places)
        if self.scale_places[0] is not None and self.scale_places[1] is not None:
            pairs.append((self.scale_places[0], self.scale_places[1]))
        self.chunk_tokens = common_tokens(pairs, source.page_tokens, target.page_tokens)

    def nests(self) -> Iterator[Nest]:
        split_layers = any("layer" in p.region_steps for pair in self.places for p in pair)
        layers = self.groups[0].layers
        for layer in range(layers) if split_layers else (0,):
            looped = 1 if split_layers else layers
            if self.casts:
                yield from _merged_casts([self._cast(layer, looped, kv) for kv in (0, 1)])
                continue
            yield from _merged([self._plain(layer, looped, kv, *self.places[kv]) for kv in (0, 1)])
            scales = self.scale_places
            if scales[0] is not None and scales[1] is not None:
                yield from _merged([self._plain(layer, looped, kv, scales[0], scales[1]) for kv in (0, 1)])

    def _plain(self, layer: int, layers: int, kv: int, source: Place, target: Place) -> Nest:
        loops = self._outer(source, target, layers)
        for axis, extent in (("token", self.chunk_tokens), ("dim", self.groups[0].head_dim)):
            loops += axis_loops(source, target, axis, extent)
        element_bytes = SCALE_BYTES if source is self.scale_places[0] else self.groups[0].element_bytes
        return Nest(
            source=self._side(0, source, layer, kv),
            target=self._side(1, target, layer, kv),
            loops=tuple(loops),
            run_bytes=element_bytes,
        )

    def _cast(self, layer: int, layers: int, kv: int) -> Nest:
        source, target = self.places[kv]
        tile = [_tile(group, self.chunk_tokens) for group in self.groups]
        gather = self._block(source, tile[0])
        scatter = self._block(tile[1], target)
        rows = self._row_bytes(0, source), self._row_bytes(1, target)
        outer = self._outer(source, target, layers)
        return Nest(
            source=self._side(0, source, layer, kv, rows[0]),
            target=self._side(1, target, layer, kv, rows[1]),
            loops=tuple(outer),
            run_bytes=self.groups[0].element_bytes,
            cast=Cast(
                gather=() if rows[0] else gather,
                scatter=() if rows[1] else scatter,
                scale_strides=tuple(self._scale_strides(layers)),
            ),
        )

    def _outer(self, source: Place, target: Place, layers: int) -> list[Loop]:
        loops = []
        for axis, extent in (("layer", layers), ("head", self.heads)):
            if extent > 1:
                loops.append(Loop(extent, source.offset(axis, 1), target.offset(axis, 1)))
        return loops

    def _scale_strides(self, layers: int) -> Iterator[tuple[int, int]]:
        for axis, extent in (("layer", layers), ("head", self.heads)):
            if extent > 1:
                source, target = (p.offset(axis, 1) if p else 0 for p in self.scale_places)
                yield source, target

    def _block(self, source: Place, target: Place) -> tuple[Loop, ...]:
        loops = axis_loops(source, target, "token", self.chunk_tokens)
        return join([*loops, *axis_loops(source, target, "dim", self.groups[0].head_dim)])

    def _row_bytes(self, index: int, where: Place) -> int:
        """Bytes between rows of dims where the rows of a block are contiguous and evenly spaced, else 0."""
        dims = where.axes["dim"]
        one_row = self.groups[index].head_dim * dims[0].stride_bytes
        step = where.offset("token", 1) if self.chunk_tokens > 1 else one_row
        even = all(where.offset("token", token) == token * step for token in range(self.chunk_tokens))
        contiguous = len(dims) == 1 and dims[0].stride_bytes == self.groups[index].element_bytes
        return step if even and contiguous else 0

    def _side(self, index: int, where: Place, layer: int, kv: int, row_bytes: int = 0) -> Side:
        scales = self.scale_places[index] if self.casts else None
        return Side(
            region=where.region(layer, kv),
            offsets=self._offsets(index, where, layer, kv),
            row_bytes=row_bytes,
            scale_offsets=self._offsets(index, scales, layer, kv) if scales else (),
            scale_row_bytes=scales.offset("token", 1) if scales and self.chunk_tokens > 1 else 0,
        )

    def _offsets(self, index: int, where: Place, layer: int, kv: int) -> tuple[int, ...]:
        start = where.first_byte + where.offset("kv", kv) + where.offset("layer", layer)
        start += where.offset("head", self.head_starts[index])
        chunks = range(0, self.groups[index].page_tokens, self.chunk_tokens)
        return tuple(start + where.offset("token", token) for token in chunks)


def _steps(key: Nest, value: Nest) -> tuple[Loop, tuple[int, int]] | None:
    """The loop over K and V, and its scales' strides, where V is everywhere as far from K."""
    pairs = [
        (getattr(getattr(key, side), name), getattr(getattr(value, side), name))
        for name in ("offsets", "scale_offsets")
        for side in ("source", "target")
    ]
    steps = [{v - k for k, v in zip(*pair, strict=True)} or {0} for pair in pairs]
    regions = (key.source.region, key.target.region) == (value.source.region, value.target.region)
    if not regions or key.loops != value.loops or any(len(found) > 1 for found in steps):
        return None
    source, target, source_scale, target_scale = (found.pop() for found in steps)
    return Loop(2, source, target), (source_scale, target_scale)


def _merged_casts(nests: list[Nest]) -> list[Nest]:
    """One nest for K and V where both are the same casts of the same rows."""
    key, value = nests
    both = _steps(key, value)
    alike = (key.cast, key.source.row_bytes, key.target.row_bytes) == (
        value.cast,
        value.source.row_bytes,
        value.target.row_bytes,
    )
    if both is None or key.cast is None or not alike:
        return nests
    loop, scale_strides = both
    cast = msgspec.structs.replace(key.cast, scale_strides=(*key.cast.scale_strides, scale_strides))
    return [msgspec.structs.replace(key, loops=(*key.loops, loop), cast=cast)]


def _merged(nests: list[Nest]) -> Iterator[Nest]:
    """K's nest and V's, or one for both where their loops are equal; in the fewest loops and longest runs."""
    if (both := _steps(*nests)) is not None:
        nests = [msgspec.structs.replace(nests[0], loops=(*nests[0].loops, both[0]))]
    for nest in nests:
        loops, run_bytes = join(nest.loops), nest.run_bytes
        if loops and loops[-1].source_stride == loops[-1].target_stride == run_bytes:
            run_bytes *= loops[-1].extent
            loops = loops[:-1]
        yield msgspec.structs.replace(nest, loops=loops, run_bytes=run_bytes)


def _tile(group: Group, tokens: int) -> Place:
    """A block in rows [token][dim]."""
    return place(
        msgspec.structs.replace(group, layout=msgspec.structs.replace(group.layout, region_factors=0)),
        (Factor("token", tokens), Factor("dim", group.head_dim)),
        group.element_bytes,
    )


def _scale_place(group: Group) -> Place | None:
    if group.scales is None:
        return None
    elements_bytes = group.page_elements // group.regions * group.element_bytes
    return place(group, group.scales.factors, SCALE_BYTES, elements_bytes)
