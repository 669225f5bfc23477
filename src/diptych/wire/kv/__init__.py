"""KV formats on the wire: the record, the named layouts, plans between them, and pairing. Pure."""

from __future__ import annotations

from diptych.wire.kv.encoding import VERSIONS, decode_format, encode_format, format_hash
from diptych.wire.kv.layouts import LAYOUTS, hnd, llama_cpp, nhd, panels, shard, vllm_cpu
from diptych.wire.kv.pairing import Announcement, announce, decode_announcement, encode_announcement, pair
from diptych.wire.kv.plan import Copy, Cost, Refusal, Same, plan, plan_shards
from diptych.wire.kv.rates import RATES, Rates
from diptych.wire.kv.record import DTYPE_BYTES, Factor, Group, HeadRange, KvFormat, Layout, Scales

__all__ = [
    "DTYPE_BYTES",
    "LAYOUTS",
    "RATES",
    "VERSIONS",
    "Announcement",
    "Copy",
    "Cost",
    "Factor",
    "Group",
    "HeadRange",
    "KvFormat",
    "Layout",
    "Rates",
    "Refusal",
    "Same",
    "Scales",
    "announce",
    "decode_announcement",
    "decode_format",
    "encode_announcement",
    "encode_format",
    "format_hash",
    "hnd",
    "llama_cpp",
    "nhd",
    "pair",
    "panels",
    "plan",
    "plan_shards",
    "shard",
    "vllm_cpu",
]
