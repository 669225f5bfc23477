"""Text to token ids and token ids to bytes.

The merging is the `tokenizers` package's; this module builds it from a GGUF file's own vocabulary or
from `tokenizer.json`, and adds what a server needs: the bytes of every token (stop strings and
incremental text work on bytes, since a character may span tokens), and which tokens end a turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend

from diptych.models.errors import ModelError
from diptych.models.pre_tokenizer import normalizer, pre_tokenizer, whole_words_first

# Control tokens that end a turn or a text in the model families served here, whatever a file declares:
# instruct models are often published with only one of theirs as `eos`.
END_OF_TURN_TEXTS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "</s>",
)

_CONTROL, _USER_DEFINED = 3, 4
"""`tokenizer.ggml.token_type` values (GGUF specification)."""


class Tokenizer:
    """Tokenizer of one model. Thread-safe: nothing changes after construction but lazily built tables.

    `bos`, `eos`: token ids or None. `add_bos`: prompts that are plain text start with `bos` (a chat
    template writes its own). `end_of_turn`: ids after which generation ends.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        bos: int | None,
        eos: int | None,
        add_bos: bool,
        end_of_turn: Iterable[int] = (),
    ) -> None:
        self._parsing = backend
        self._plain = _without_special_parsing(backend)
        self.vocabulary = backend.get_vocab_size(with_added_tokens=True)
        self.bos = bos
        self.eos = eos
        self.add_bos = add_bos and bos is not None
        added = backend.get_added_tokens_decoder()
        self.special = frozenset(token for token, entry in added.items() if entry.special)
        declared = {token for token in (eos, *end_of_turn) if token is not None}
        known = {token for token in self.special if added[token].content in END_OF_TURN_TEXTS}
        self.end_of_turn = tuple(sorted(declared | known))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`; no `bos` is added.

        With `special`, control tokens written in the text (`<|im_end|>`) become their ids, as a rendered
        chat template needs; without, they are plain characters, as a user's text should be.
        Raises `ModelError` where `text` holds a lone surrogate, which no UTF-8 text can.
        """
        backend = self._parsing if special else self._plain
        try:
            return list(backend.encode(text, add_special_tokens=False).ids)
        except (TypeError, UnicodeEncodeError) as error:
            raise ModelError(f"text is not valid Unicode (lone surrogate): {error}") from error

    def encode_prompt(self, text: str) -> list[int]:
        """A plain-text prompt as the model expects it: `bos` first where `add_bos`."""
        ids = self.encode(text)
        return [self.bos, *ids] if self.add_bos and self.bos is not None else ids

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of the tokens; bytes that are not UTF-8 become U+FFFD. Control tokens are left out unless
        `special`. For text that arrives in pieces use `Detokenizer`."""
        pieces = (self.token_bytes(token, special=special) for token in tokens)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """Bytes that `token` adds to the text: empty for control tokens (unless `special`) and for ids
        past the vocabulary, which padded embeddings have. Raises `ModelError` for a negative id."""
        if token < 0:
            raise ModelError(f"token id {token} is negative")
        if token in self.special and not special:
            return b""
        table = self._table
        return table[token] if token < len(table) else b""

    @cached_property
    def bytes_table(self) -> tuple[bytes, ...]:
        """`token_bytes` of every id below `vocabulary`, for loops that match bytes in a worker."""
        return tuple(b"" if token in self.special else data for token, data in enumerate(self._table))

    @cached_property
    def _table(self) -> tuple[bytes, ...]:
        added = self._parsing.get_added_tokens_decoder()
        to_bytes = _byte_rule(self._parsing.decoder)
        table = [b""] * self.vocabulary
        for text, token in self._parsing.get_vocab(with_added_tokens=True).items():
            if token >= len(table):
                table.extend([b""] * (token + 1 - len(table)))
            table[token] = text.encode() if token in added else to_bytes(text)
        return tuple(table)

    def token_id(self, text: str) -> int | None:
        """Id of the token written exactly so, or None."""
        return self._parsing.token_to_id(text)


def tokenizer_from_gguf(metadata: Mapping[str, Any], source: str) -> Tokenizer:
    """The tokenizer a GGUF file describes. Raises `ModelError` naming the metadata key at fault."""
    model = metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise ModelError(
            f"{source}: tokenizer.ggml.model {model!r} is not supported; supported is 'gpt2' (byte-level "
            "merges). A safetensors folder with tokenizer.json works for the others"
        )
    name = metadata.get("tokenizer.ggml.pre", "gpt-2")
    texts = _list(metadata, "tokenizer.ggml.tokens", source)
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(texts)
    if len(kinds) != len(texts):
        raise ModelError(f"{source}: {len(kinds)} tokenizer.ggml.token_type for {len(texts)} tokens")
    merges = [_merge(text, source) for text in _list(metadata, "tokenizer.ggml.merges", source)]
    vocabulary = {text: token for token, text in enumerate(texts)}
    try:
        backend = Backend(models.BPE(vocabulary, merges, ignore_merges=whole_words_first(name)))
    except Exception as error:  # the package raises bare Exception for every inconsistency
        raise ModelError(f"{source}: tokenizer.ggml.merges do not fit the tokens: {error}") from error
    backend.pre_tokenizer = pre_tokenizer(name)
    form = normalizer(name)
    if form is not None:
        backend.normalizer = form
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [
            AddedToken(text, special=kind == _CONTROL, normalized=False)
            for text, kind in zip(texts, kinds, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    ends = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom")]
    return Tokenizer(
        backend,
        bos=bos,
        eos=metadata.get("tokenizer.ggml.eos_token_id"),
        # llama.cpp's default for Llama 3, whose files often lack the key.
        add_bos=metadata.get("tokenizer.ggml.add_bos_token", name == "llama-bpe"),
        end_of_turn=[token for token in ends if token is not None],
    )


def tokenizer_from_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: `tokenizer.json`, with the ids that `tokenizer_config.json`,
    `generation_config.json` and `config.json` declare. Raises `ModelError` naming the file."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{folder}: tokenizer.json is missing")
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the package raises bare Exception for every damaged file
        raise ModelError(f"{path}: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    settings = read_json(folder / "tokenizer_config.json")
    configs = [read_json(folder / name) for name in ("generation_config.json", "config.json")]
    bos, eos = _declared_id(backend, settings, "bos"), _declared_id(backend, settings, "eos")
    ends = [token for config in configs for token in _as_ids(config.get("eos_token_id"))]
    if eos is None and ends:
        eos = ends[0]
    # The post-processor is what puts bos in front for the reference implementation: ask it.
    first = backend.encode("a", add_special_tokens=True).ids[:1]
    return Tokenizer(backend, bos=bos, eos=eos, add_bos=bos is not None and first == [bos], end_of_turn=ends)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no file. Raises `ModelError` naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return value


def token_text(value: Any) -> str | None:
    """Text of a token as `tokenizer_config.json` writes it: a string, or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _without_special_parsing(backend: Backend) -> Backend:
    """A second view of the same model that treats control tokens in text as plain characters.

    The setting is per object and encoding runs without the GIL, so flipping one object back and forth
    would race. The vocabulary is shared, not copied, where the added tokens keep their ids.
    """
    added = backend.get_added_tokens_decoder()
    plain = Backend(backend.model)
    plain.add_tokens([added[token] for token in sorted(added)])
    ids = {token: entry.content for token, entry in plain.get_added_tokens_decoder().items()}
    if ids != {token: entry.content for token, entry in added.items()}:
        plain = Backend.from_str(backend.to_str())
    else:
        if backend.normalizer is not None:
            plain.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            plain.pre_tokenizer = backend.pre_tokenizer
    plain.encode_special_tokens = True
    return plain


def _byte_rule(decoder: Any) -> Any:
    """Function from a vocabulary entry to its bytes, by the kind of decoder."""
    kinds = set() if decoder is None else _decoder_kinds(json.loads(decoder.__getstate__()))
    if "ByteLevel" in kinds:
        return _byte_level_bytes
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return _fallback_bytes
    raise ModelError(
        f"tokenizer decoder {sorted(kinds)} is not supported; supported are byte-level and byte-fallback"
    )


def _decoder_kinds(state: Mapping[str, Any]) -> set[str]:
    kinds = {str(state.get("type"))}
    for inner in state.get("decoders", ()):
        kinds |= _decoder_kinds(inner)
    return kinds


def _byte_level_characters() -> dict[int, int]:
    """GPT-2's map from printable characters to bytes: printable Latin-1 bytes stand for themselves, the
    others follow from U+0100 in byte order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + index: byte for index, byte in enumerate(others)}


BYTE_LEVEL_CHARACTERS = _byte_level_characters()


def _byte_level_bytes(text: str) -> bytes:
    try:
        return bytes([BYTE_LEVEL_CHARACTERS[ord(character)] for character in text])
    except KeyError:  # an entry written as it is, outside the byte alphabet
        return text.encode()


def _fallback_bytes(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return bytes([int(text[3:5], 16)])
    return text.replace("\u2581", " ").encode()


def _list(metadata: Mapping[str, Any], key: str, source: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list):
        raise ModelError(f"{source}: metadata {key} is missing")
    return value


def _merge(text: str, source: str) -> tuple[str, str]:
    left, space, right = text.partition(" ")
    if not (left and space and right):
        raise ModelError(f"{source}: tokenizer.ggml.merges entry {text!r} is not two parts and a space")
    return left, right


def _declared_id(backend: Backend, settings: Mapping[str, Any], name: str) -> int | None:
    text = token_text(settings.get(f"{name}_token"))
    return None if text is None else backend.token_to_id(text)


def _as_ids(value: Any) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [token for token in value if isinstance(token, int)] if isinstance(value, list) else []
