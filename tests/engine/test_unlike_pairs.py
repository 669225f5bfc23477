"""One request, two engine families, one pool: prefill by one, decode by the other.

Nothing is stored about what the model says: each pair is compared with the float32 yardstick, run on
the same tokens in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from diptych.engine.interface import Engine, Span
from diptych.engine.native import packing
from diptych.engine.native.engine import NativeEngine
from diptych.models.resolve import LoadedModel, load

torch = pytest.importorskip("torch", reason="torch is not installed")

from diptych.engine.torch import TorchEngine  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.model]

PAGES = 24
OUTPUT_TOKENS = 16
QUESTION = (
    "Explain in two or three sentences why the sky is blue during the day and red in the evening, so that "
    "a child of eight years can follow. Do not use the word 'scattering'."
)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.set_num_threads(1)
    return load("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def engines(loaded: LoadedModel) -> Iterator[dict[str, Engine]]:
    weights = {}
    for name in ("int8", "int4"):
        memory = np.zeros(packing.packed_bytes(loaded.model.config, name) + 64, np.uint8)
        weights[name] = memory[-memory.ctypes.data % 64 :].data
        packing.pack(loaded.model, name, weights[name])
    native = NativeEngine(loaded.model.config, weights, loaded.model.fingerprint, "int8")
    reference = TorchEngine(loaded.model)
    yield {"native": native, "torch": reference}
    native.close()
    reference.close()


def prompt_of(loaded: LoadedModel) -> np.ndarray:
    assert loaded.chat_template is not None
    text = loaded.chat_template.render([{"role": "user", "content": QUESTION}])
    return np.array(loaded.tokenizer.encode(text, special=True), np.int32)


def span_of(tokens: np.ndarray, start: int, end: int, pages: np.ndarray, numerics: str, keep: bool) -> Span:
    return Span(
        first_position=start,
        tokens=np.ascontiguousarray(tokens[start:end], np.int32),
        pages=pages[: -(-end // 16)],
        numerics=numerics,
        logits_from=end - start - 1 if keep else None,
    )


def generate(
    prefill: Engine, decode: Engine, numerics: tuple[str, str], prompt: np.ndarray, forced: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and logits of OUTPUT_TOKENS positions. The prompt's full pages are computed by `prefill`,
    the rest by `decode`; `forced` gives the tokens instead of the engine's own greedy ones."""
    pages = np.random.default_rng(4).permutation(PAGES).astype(np.int32)
    split = (len(prompt) - 1) // 16 * 16
    assert split >= 32
    prefill.step([span_of(prompt, 0, split, pages, numerics[0], keep=False)])
    tokens, rows, start = prompt, [], split
    for index in range(OUTPUT_TOKENS):
        result = decode.step([span_of(tokens, start, len(tokens), pages, numerics[1], keep=True)])
        rows.append(decode.logits(result)[0])
        start = len(tokens)
        chosen = int(np.argmax(rows[-1])) if forced is None else int(forced[index])
        tokens = np.append(tokens, np.int32(chosen))
    return tokens[len(prompt) :], np.stack(rows)


def divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the rows' distributions, in nats."""

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    reference, other = log_softmax(expected), log_softmax(found)
    return float((np.exp(reference) * (reference - other)).sum(axis=1).mean())


@pytest.fixture
def shared_pool(
    yardstick: object, engines: dict[str, Engine], make_pool: Callable[[int], memoryview]
) -> memoryview:
    kv_format = engines["torch"].kv_format
    assert kv_format.difference(engines["native"].kv_format) is None
    pool = make_pool(PAGES * kv_format.page_bytes)
    np.frombuffer(pool, np.uint8)[:] = 0xFF
    for engine in engines.values():
        engine.attach_pool(pool, PAGES)
    return pool


@pytest.fixture(scope="module")
def yardstick(engines: dict[str, Engine], loaded: LoadedModel) -> tuple[np.ndarray, np.ndarray]:
    """Greedy tokens of torch alone, and their logits."""
    engine = engines["torch"]
    pool = np.full(PAGES * engine.kv_format.page_bytes, 0xFF, np.uint8)
    engine.attach_pool(pool.data, PAGES)
    name = engine.capabilities.numerics[0]
    return generate(engine, engine, (name, name), prompt_of(loaded), None)


@pytest.mark.parametrize("pair", [("native", "torch"), ("torch", "native"), ("native", "native")])
def test_pair_agrees_with_the_yardstick(
    pair: tuple[str, str],
    engines: dict[str, Engine],
    loaded: LoadedModel,
    yardstick: tuple[np.ndarray, np.ndarray],
    shared_pool: memoryview,
) -> None:
    prompt = prompt_of(loaded)
    expected_tokens, expected = yardstick
    prefill, decode = (engines[which] for which in pair)
    # The default pair: the first numerics prefill (int8), the last decode (int4).
    numerics = (prefill.capabilities.numerics[0], decode.capabilities.numerics[-1])
    _, forced = generate(prefill, decode, numerics, prompt, expected_tokens)
    assert divergence(expected, forced) < 0.02
    agreement = np.mean(np.argmax(forced, axis=1) == np.argmax(expected, axis=1))
    assert agreement >= 0.85

    own, _ = generate(prefill, decode, numerics, prompt, None)
    text = loaded.tokenizer.decode(own.tolist())
    assert sum(character.isalpha() or character in " ,.'\n" for character in text) > 0.9 * len(text)
    assert len(set(own.tolist())) > OUTPUT_TOKENS // 3, "the text repeats itself"


def test_a_lost_handoff_is_seen(
    engines: dict[str, Engine],
    loaded: LoadedModel,
    yardstick: tuple[np.ndarray, np.ndarray],
    shared_pool: memoryview,
) -> None:
    """The bars above can fail: decode over another prompt's pages is far off."""
    prompt = prompt_of(loaded)
    expected_tokens, expected = yardstick
    decode = engines["torch"]
    name = decode.capabilities.numerics[0]
    other = prompt.copy()
    other[:32] = prompt[31::-1]
    native = engines["native"]
    pages = np.random.default_rng(4).permutation(PAGES).astype(np.int32)
    split = (len(prompt) - 1) // 16 * 16
    native.step([span_of(other, 0, split, pages, native.capabilities.numerics[0], keep=False)])
    rows, start, tokens = [], split, np.concatenate([prompt, expected_tokens])
    for index in range(OUTPUT_TOKENS):
        end = len(prompt) + index
        result = decode.step([span_of(tokens, start, end, pages, name, keep=True)])
        rows.append(decode.logits(result)[0])
        start = end
    assert divergence(expected, np.stack(rows)) > 0.02
