"""Tiny models in both file formats, written here, so that no test of this room needs a download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, LAYERS = 64, 4, 2, 16, 96, 2


def tiny_weights(vocabulary: int, *, seed: int = 7) -> dict[str, np.ndarray]:
    """Canonical name to float32 array of a tiny Llama with an untied head."""
    generator = np.random.default_rng(seed)
    query_rows, key_rows = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"embedding": (vocabulary, HIDDEN), "head": (vocabulary, HIDDEN), "final_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {
            f"layers.{layer}.{name}": shape
            for name, shape in {
                "attention_norm": (HIDDEN,),
                "mlp_norm": (HIDDEN,),
                "query": (query_rows, HIDDEN),
                "key": (key_rows, HIDDEN),
                "value": (key_rows, HIDDEN),
                "output": (HIDDEN, query_rows),
                "gate": (FFN, HIDDEN),
                "up": (FFN, HIDDEN),
                "down": (HIDDEN, FFN),
            }.items()
        }
    return {name: generator.standard_normal(shape).astype(np.float32) * 0.2 for name, shape in shapes.items()}


GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "head": "output.weight",
    "final_norm": "output_norm.weight",
    "attention_norm": "attn_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "query": "attn_q.weight",
    "key": "attn_k.weight",
    "value": "attn_v.weight",
    "output": "attn_output.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "query_bias": "attn_q.bias",
    "key_bias": "attn_k.bias",
    "value_bias": "attn_v.bias",
    "query_norm": "attn_q_norm.weight",
    "key_norm": "attn_k_norm.weight",
}


def gguf_name(canonical: str) -> str:
    if not canonical.startswith("layers."):
        return GGUF_NAMES[canonical]
    _, layer, name = canonical.split(".")
    return f"blk.{layer}.{GGUF_NAMES[name]}"


def interleave(rows: np.ndarray) -> np.ndarray:
    """Half-split rotary rows to neighbouring pairs, as llama.cpp's converter stores them."""
    return rows.reshape(-1, 2, HEAD_DIM // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


BYTE_TOKENS = [
    chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 256 + 68)]
]
"""The 256 characters of the byte-level alphabet."""
TOKENS = [*BYTE_TOKENS, "he", "ll", "hell", "hello", "Ġw", "<|im_start|>", "<|im_end|>", "<tool>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    quantise: dict[str, gguf.GGMLQuantizationType] | None = None,
    pre: str = "smollm",
) -> Path:
    """A complete GGUF file. `tensors` are by GGUF name; `quantise` maps some of them to an encoding;
    `metadata` (uint32, float32, str or bool) is added to, or replaces, what is written by default."""
    writer = gguf.GGUFWriter(str(path), architecture)
    numbers: dict[str, Any] = {
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": 256,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": FFN,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 10000.0,
        "tokenizer.ggml.bos_token_id": TOKENS.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": TOKENS.index("<|im_end|>"),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.chat_template": TEMPLATE,
    }
    for key, value in (numbers | (metadata or {})).items():
        add = {
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            bool: writer.add_bool,
        }
        add[type(value)](key, value)
    writer.add_array("tokenizer.ggml.tokens", TOKENS)
    writer.add_array("tokenizer.ggml.merges", MERGES)
    writer.add_array("tokenizer.ggml.token_type", [1] * (len(TOKENS) - 3) + [3, 3, 4])
    if tensors is None:
        tensors = {
            gguf_name(name): interleave(value) if name.endswith((".query", ".key")) else value
            for name, value in tiny_weights(len(TOKENS)).items()
        }
    for name, value in tensors.items():
        kind = (quantise or {}).get(name)
        if kind is None:
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Tiny:
    """The helpers above, for test modules (which are imported by path and cannot import this file)."""

    tokens, merges, template = TOKENS, MERGES, TEMPLATE
    head_dim, layers = HEAD_DIM, LAYERS
    weights = staticmethod(tiny_weights)
    gguf_name = staticmethod(gguf_name)
    interleave = staticmethod(interleave)
    write_gguf = staticmethod(write_gguf)


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    return Tiny


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def rewrite(tmp_path: Path, tiny_gguf: Path) -> Callable[[Callable[[bytearray], None]], Path]:
    """Writes a copy of the tiny file after a change of its bytes."""

    def change(edit: Callable[[bytearray], None]) -> Path:
        data = bytearray(tiny_gguf.read_bytes())
        edit(data)
        path = tmp_path / "changed.gguf"
        path.write_bytes(data)
        return path

    return change
