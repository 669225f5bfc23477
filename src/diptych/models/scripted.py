"""Words for the scripted engine: a byte-level vocabulary without merges, and a small chat template.

Token ids below 256 are the bytes themselves; 256 and 257 open and end a turn.
"""

from __future__ import annotations

from diptych.models.chat_template import ChatTemplate
from diptych.models.resolve import TextModel
from diptych.models.tokenizer import BYTE_LEVEL_CHARACTERS, tokenizer_from_gguf
from diptych.models.weights import ModelConfig

START_OF_TURN, END_OF_TURN = 256, 257

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def scripted_text(name: str = "scripted", *, context_max: int = 8192, vocabulary: int = 258) -> TextModel:
    """The `TextModel` of a scripted engine with this vocabulary; ids from 258 on have no text."""
    characters = {byte: character for character, byte in BYTE_LEVEL_CHARACTERS.items()}
    texts = [chr(characters[byte]) for byte in range(256)] + ["<|im_start|>", "<|im_end|>"]
    tokenizer = tokenizer_from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": texts,
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.token_type": [1] * 256 + [3, 3],
            "tokenizer.ggml.eos_token_id": END_OF_TURN,
        },
        name,
    )
    config = ModelConfig(
        architecture="scripted",
        layers=1,
        hidden=2,
        heads=1,
        kv_heads=1,
        head_dim=2,
        ffn=2,
        vocabulary=vocabulary,
        context_max=context_max,
        norm_epsilon=1e-5,
        rope_theta=1.0,
    )
    return TextModel(name=name, config=config, tokenizer=tokenizer, chat_template=ChatTemplate(_TEMPLATE))
