"""The short-lived child that reads the model once for the whole host: weights into memfds, then it ends.

So the supervisor stays small, the memory of reading and repacking is given back, and no worker opens
the model's file.
"""

from __future__ import annotations

import gc
import socket
import time
from typing import TYPE_CHECKING

import msgspec

from diptych.core.facts import Fact
from diptych.live.host_link import send_packet
from diptych.live.launch import HostMessage, ModelSource, PackAsked, Packed, StartFailed
from diptych.live.process import run_child
from diptych.live.sealed_memory import MemoryWriter
from diptych.live.token_table import create_token_table
from diptych.models.errors import ModelError
from diptych.wire.kv import encode_format, panels

if TYPE_CHECKING:
    from diptych.models.weights import Model


async def main(end: socket.socket, first: HostMessage | Fact, descriptors: list[int]) -> int:
    assert isinstance(first, PackAsked)
    started = time.monotonic()
    try:
        source, weights = _pack_scripted(first) if first.engines == ("scripted",) else _pack_model(first)
    except (ModelError, ValueError, OSError, ImportError) as error:
        send_packet(end, StartFailed(reason=f"model {first.model}: {error}"))
        return 1
    seconds = time.monotonic() - started
    send_packet(end, Packed(model=source, weights=first.formats, seconds=seconds), weights)
    return 0


def _pack_scripted(asked: PackAsked) -> tuple[ModelSource, list[int]]:
    from diptych.engine.scripted import ScriptedEngine
    from diptych.models.scripted import scripted_text

    text = scripted_text(asked.model)
    kv_format = ScriptedEngine(model=asked.model, page_tokens=asked.page_tokens).kv_format
    source = ModelSource(
        name=asked.model,
        path="",
        fingerprint=kv_format.model,
        context_max=text.config.context_max,
        page_bytes=kv_format.page_bytes,
        kv_format=encode_format(kv_format),
        config=msgspec.msgpack.encode(text.config),
    )
    return source, [create_token_table(text.tokenizer.bytes_table)]


def _pack_model(asked: PackAsked) -> tuple[ModelSource, list[int]]:
    """Reads the model and packs each format; raises what the model room raises."""
    from diptych.models.resolve import load, locate

    path, name = locate(asked.model)
    loaded = load(asked.model)
    config = loaded.model.config
    kv_format = panels(
        model=loaded.model.fingerprint,
        layers=config.layers,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        page_tokens=asked.page_tokens,
    )
    source = ModelSource(
        name=name,
        path=str(path.resolve()),
        fingerprint=loaded.model.fingerprint,
        context_max=config.context_max,
        page_bytes=kv_format.page_bytes,
        kv_format=encode_format(kv_format),
        config=msgspec.msgpack.encode(config),
    )
    table = create_token_table(loaded.tokenizer.bytes_table)
    return source, [table, *(_pack_format(loaded.model, format_) for format_ in asked.formats)]


def _pack_format(model: Model, format_: str) -> int:
    from diptych.engine.native.packing import pack, packed_bytes

    writer = MemoryWriter(f"diptych-{format_}", packed_bytes(model.config, format_))
    with writer.memory as memory:
        pack(model, format_, memory)
    gc.collect()  # the packer's array over the memory would keep it from being sealed
    return writer.seal()


if __name__ == "__main__":
    run_child(main)
