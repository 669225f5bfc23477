"""Round trips, control tokens and byte tables, on the embedded vocabulary and on tiny ones."""

from __future__ import annotations

import json
import random
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from diptych.models.embedded import fetch_embedded
from diptych.models.errors import ModelError
from diptych.models.gguf_file import GgufFile
from diptych.models.tokenizer import Tokenizer, tokenizer_from_folder, tokenizer_from_gguf

SAMPLES = (
    "The quick brown fox jumps over 13 lazy dogs, doesn't it?",
    "L'Étoile du Nord, à 7h30; naïve façade.",
    "日本語のテキストと、한국어 텍스트。",
    "👩‍👩‍👧 family, \U0001f3f3️‍🌈 flag, e\u0301 combining",
    "def f(x):\n\treturn x  **  2\r\n\n\n   # done   ",
    "  leading and trailing  ",
    "1234567890 3.14159 -1e-10",
    "<|im_start|>user\nhello<|im_end|>",
)


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return tokenizer_from_gguf(GgufFile(fetch_embedded()).metadata, "embedded")


def tiny_metadata(tiny: Any, **changes: Any) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(tiny.tokens),
        "tokenizer.ggml.merges": list(tiny.merges),
        "tokenizer.ggml.token_type": [1] * (len(tiny.tokens) - 3) + [3, 3, 4],
        "tokenizer.ggml.bos_token_id": tiny.tokens.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": tiny.tokens.index("<|im_end|>"),
    } | changes


@pytest.mark.model
@pytest.mark.parametrize("text", SAMPLES)
def test_embedded_round_trip(embedded: Tokenizer, text: str) -> None:
    tokens = embedded.encode(text)
    assert embedded.decode(tokens) == text
    assert not embedded.special.intersection(tokens)


@pytest.mark.model
def test_embedded_facts(embedded: Tokenizer) -> None:
    assert (embedded.bos, embedded.eos, embedded.add_bos, embedded.vocabulary) == (1, 2, False, 49152)
    assert embedded.end_of_turn == (0, 2)
    assert embedded.encode("<|im_start|>", special=True) == [1]
    assert embedded.token_bytes(1) == b""
    assert embedded.token_bytes(1, special=True) == b"<|im_start|>"
    # `smollm` cuts numbers into digits.
    assert len(embedded.encode("2024")) == 4


@pytest.mark.model
def test_embedded_equals_the_package_decoder(embedded: Tokenizer) -> None:
    generator = random.Random(11)
    for _ in range(50):
        tokens = [generator.randrange(17, 49152) for _ in range(20)]
        assert embedded.decode(tokens) == embedded._parsing.decode(tokens, skip_special_tokens=True)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_tiny_round_trip_of_any_unicode(tiny: Any, text: str) -> None:
    tokenizer = _tiny_tokenizer(tiny)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    with_special = tokenizer.encode(text, special=True)
    assert tokenizer.decode(with_special, special=True) == text


_CACHE: dict[str, Tokenizer] = {}


def _tiny_tokenizer(tiny: Any) -> Tokenizer:
    if "tiny" not in _CACHE:
        _CACHE["tiny"] = tokenizer_from_gguf(tiny_metadata(tiny), "tiny")
    return _CACHE["tiny"]


def test_control_tokens_only_where_asked_for(tiny: Any) -> None:
    tokenizer = _tiny_tokenizer(tiny)
    start, tool = tiny.tokens.index("<|im_start|>"), tiny.tokens.index("<tool>")
    assert tokenizer.encode("<|im_start|>hello", special=True) == [start, tiny.tokens.index("hello")]
    assert start not in tokenizer.encode("<|im_start|>hello")
    # A user-defined token is text that has a token of its own, not control.
    assert tokenizer.encode("<tool>") == [tool]
    assert tokenizer.token_bytes(tool) == b"<tool>"
    assert tokenizer.bytes_table[start] == b""


def test_ids_outside_the_vocabulary(tiny: Any) -> None:
    tokenizer = _tiny_tokenizer(tiny)
    assert tokenizer.token_bytes(len(tiny.tokens) + 100) == b""
    with pytest.raises(ModelError, match="-1 is negative"):
        tokenizer.token_bytes(-1)


def test_lone_surrogate_is_refused(tiny: Any) -> None:
    with pytest.raises(ModelError, match="lone surrogate"):
        _tiny_tokenizer(tiny).encode("a\ud800b")


def test_encoding_in_threads_never_mixes_the_two_modes(tiny: Any) -> None:
    tokenizer = _tiny_tokenizer(tiny)
    text = "<|im_end|>" * 50
    plain, parsed = tokenizer.encode(text), tokenizer.encode(text, special=True)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: tokenizer.encode(text, special=n % 2 == 0), range(200)))
    assert all(tokens == (parsed if n % 2 == 0 else plain) for n, tokens in enumerate(found))


def test_bos_is_added_to_plain_prompts_where_the_file_says_so(tiny: Any) -> None:
    metadata = tiny_metadata(tiny, **{"tokenizer.ggml.add_bos_token": True})
    tokenizer = tokenizer_from_gguf(metadata, "tiny")
    assert tokenizer.encode_prompt("hello") == [tokenizer.bos, tiny.tokens.index("hello")]
    assert _tiny_tokenizer(tiny).encode_prompt("hello") == [tiny.tokens.index("hello")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "'llama' is not supported; supported is 'gpt2'"),
        ({"tokenizer.ggml.pre": "tekken"}, "'tekken' is not supported; supported are gpt-2, llama-bpe"),
        ({"tokenizer.ggml.tokens": None}, r"tokenizer\.ggml\.tokens is missing"),
        ({"tokenizer.ggml.merges": ["nospace"]}, "'nospace' is not two parts"),
        ({"tokenizer.ggml.merges": ["zz qq"]}, r"tokenizer\.ggml\.merges"),
        ({"tokenizer.ggml.token_type": [1]}, r"1 tokenizer\.ggml\.token_type for"),
    ],
)
def test_unusable_vocabularies_are_refused(tiny: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tokenizer_from_gguf(tiny_metadata(tiny, **changes), "tiny")


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "in 2024 you'll", ["in", " 2024", " you", "'ll"]),
        ("smollm", "in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("llama-bpe", "in 20245 I'LL\n\n x", ["in", " ", "202", "45", " I", "'LL", "\n\n", " x"]),
        ("qwen2", "in 24 .a\n", ["in", " ", "2", "4", " .", "a", "\n"]),
    ],
)
def test_pre_tokenizers_cut_where_the_model_was_trained_to(pre: str, text: str, pieces: list[str]) -> None:
    from diptych.models.pre_tokenizer import pre_tokenizer

    spans = [span for _, span in pre_tokenizer(pre).pre_tokenize_str(text)]
    assert [text[start:end] for start, end in spans] == pieces


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_round_trip_under_every_pre_tokenizer(tiny: Any, pre: str, text: str) -> None:
    if pre not in _CACHE:
        _CACHE[pre] = tokenizer_from_gguf(tiny_metadata(tiny, **{"tokenizer.ggml.pre": pre}), pre)
    # Qwen composes characters, so that is what comes back.
    expected = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
    assert _CACHE[pre].decode(_CACHE[pre].encode(text)) == expected


def test_llama_takes_a_known_word_whole(tiny: Any) -> None:
    """`hello` is in the vocabulary, and here no merge reaches it."""
    unreachable = {"tokenizer.ggml.merges": ["h e"]}
    word = tiny.tokens.index("hello")
    for pre, whole in (("llama-bpe", True), ("gpt-2", False)):
        metadata = tiny_metadata(tiny, **unreachable, **{"tokenizer.ggml.pre": pre})
        assert (tokenizer_from_gguf(metadata, pre).encode("hello") == [word]) is whole


def trained(folder: Path) -> tokenizers.Tokenizer:
    """A byte-level vocabulary trained on the samples, as a folder's tokenizer.json."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SAMPLES * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    backend.save(str(folder / "tokenizer.json"))
    return backend


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(st.sampled_from(SAMPLES), st.text(st.characters(exclude_categories=["Cs"]))))
def test_gguf_and_tokenizer_json_give_the_same_ids(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    if "json" not in _CACHE:
        folder = tmp_path_factory.mktemp("trained")
        backend = trained(folder)
        (folder / "tokenizer_config.json").write_text('{"bos_token": "<|im_start|>"}')
        (folder / "generation_config.json").write_text('{"eos_token_id": [1]}')
        _CACHE["json"] = tokenizer_from_folder(folder)
        state = json.loads(backend.to_str())["model"]
        texts = sorted(state["vocab"], key=state["vocab"].__getitem__)
        metadata = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": texts,
            "tokenizer.ggml.merges": [" ".join(pair) for pair in state["merges"]],
            "tokenizer.ggml.token_type": [3, 3] + [1] * (len(texts) - 2),
        }
        _CACHE["gguf"] = tokenizer_from_gguf(metadata, "trained")
    for special in (False, True):
        ours = _CACHE["gguf"].encode(text, special=special)
        assert ours == _CACHE["json"].encode(text, special=special)
        assert _CACHE["json"].decode(ours, special=special) == text


def test_folder_declares_its_ids(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<|im_start|>"}}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')
    tokenizer = tokenizer_from_folder(tmp_path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.end_of_turn) == (0, 1, (1,))
    # The post-processor puts bos in front, so plain prompts get it.
    assert tokenizer.add_bos
    assert tokenizer.encode_prompt("a")[0] == 0
    assert tokenizer.encode("a")[0] != 0


def test_byte_fallback_vocabularies_give_their_bytes(tmp_path: Path) -> None:
    """The SentencePiece style of Llama 2 and Mistral: spaces are U+2581, unknown bytes are <0xHH>."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocabulary |= {"\u2581": 259, "a": 260, "b": 261, "\u2581a": 262}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = tokenizers.normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    tokenizer = tokenizer_from_folder(tmp_path)
    assert tokenizer.end_of_turn == (2,)
    assert tokenizer.token_bytes(262) == b" a"
    assert tokenizer.token_bytes(3 + 0xE2) == b"\xe2"
    text = "b a €"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_damaged_folders_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        tokenizer_from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        tokenizer_from_folder(tmp_path)
    trained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        tokenizer_from_folder(tmp_path)
