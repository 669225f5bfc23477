"""How text is cut before byte-pair merges, by the name a GGUF file gives it (`tokenizer.ggml.pre`).

The patterns are part of a model's definition: other cuts give other tokens than it was trained on.
Each ends in the byte-level step of GPT-2, which maps bytes to printable characters.
"""

from __future__ import annotations

from tokenizers import Regex, normalizers, pre_tokenizers

from diptych.models.errors import ModelError

_AROUND_NUMBERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_SPLIT_PATTERNS = {
    "llama-bpe": r"\p{N}{1,3}".join(_AROUND_NUMBERS),
    "qwen2": r"\p{N}".join(_AROUND_NUMBERS),
}

SUPPORTED = ("gpt-2", "llama-bpe", "qwen2", "smollm")


def pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """The cutting rule. Raises `ModelError` naming an unknown one and listing the supported ones."""
    if name in _SPLIT_PATTERNS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLIT_PATTERNS[name]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt-2":
        return gpt2
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    raise ModelError(f"tokenizer.ggml.pre {name!r} is not supported; supported are {', '.join(SUPPORTED)}")


def normalizer(name: str) -> normalizers.Normalizer | None:
    """Qwen composes characters (NFC) before cutting; the others take the text as it is."""
    return normalizers.NFC() if name == "qwen2" else None


def whole_words_first(name: str) -> bool:
    """Llama 3 takes a word that is in the vocabulary as one token, even where merges do not reach it."""
    return name == "llama-bpe"
