"""Steps, engines and pools outside the limits are refused by field, before anything is written."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import numpy as np
import pytest

from diptych.engine.interface import Span
from diptych.engine.native.engine import NativeEngine


def span(box: Any, **changes: Any) -> Span:
    plain = Span(
        first_position=0,
        tokens=np.arange(20, dtype=np.int32),
        pages=np.array([1, 2], np.int32),
        numerics=box.engine.capabilities.numerics[0],
        logits_from=19,
    )
    return msgspec.structs.replace(plain, **changes)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


BAD_SPANS: list[tuple[dict[str, Any], str]] = [
    ({"tokens": ids()}, r"spans\[1\]\.tokens: .*at least one"),
    ({"tokens": ids(1, 100), "pages": ids(1)}, r"spans\[1\]\.tokens\[1\] = 100: .*0 to 99"),
    ({"tokens": ids(-1), "pages": ids(1)}, r"spans\[1\]\.tokens\[0\] = -1"),
    ({"tokens": np.arange(20, dtype=np.int64)}, r"spans\[1\]\.tokens: .*int32"),
    ({"tokens": np.arange(40, dtype=np.int32)[::2]}, r"spans\[1\]\.tokens: .*contiguous"),
    ({"tokens": np.zeros((2, 10), np.int32)}, r"spans\[1\]\.tokens: .*one dimension"),
    ({"first_position": -1}, r"spans\[1\]\.first_position = -1.*context_max = 256"),
    ({"first_position": 240}, r"spans\[1\]\.first_position = 240.*context_max = 256"),
    ({"first_position": 2**62}, r"spans\[1\]\.first_position"),
    ({"pages": ids(1)}, r"spans\[1\]\.pages: 1 pages, must be 2"),
    ({"pages": ids(1, 2, 3)}, r"spans\[1\]\.pages: 3 pages, must be 2"),
    ({"pages": ids(1, 64)}, r"spans\[1\]\.pages\[1\] = 64: .*0 to 63"),
    ({"pages": ids(-1, 2)}, r"spans\[1\]\.pages\[0\] = -1"),
    ({"pages": ids(4, 4)}, r"spans\[1\]\.pages\[1\]: page 4 is also written"),
    ({"pages": ids(4, 8)}, r"spans\[1\]\.pages\[1\]: page 8 is also written"),
    (
        {"first_position": 16, "pages": ids(8, 4, 5)},
        r"spans\[1\]\.pages\[0\]: page 8 is written by spans\[0\]",
    ),
    ({"first_position": 32, "pages": ids(4, 4, 5, 6)}, r"spans\[1\]\.pages\[1\]: page 4 stands twice"),
    ({"logits_from": -1}, r"spans\[1\]\.logits_from = -1"),
    ({"logits_from": 20}, r"spans\[1\]\.logits_from = 20: must be 0 to 19"),
    ({"numerics": "native/int9"}, r"numerics 'native/int9': this engine runs native/bf16"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_SPANS)
def test_a_bad_span_is_refused_and_nothing_is_written(
    changes: dict[str, Any], message: str, tiny: Any, host: Any
) -> None:
    box = host(tiny())
    before = box.pool.copy()
    with pytest.raises(ValueError, match=message):
        box.engine.step([span(box, pages=ids(8, 9)), span(box, **{"logits_from": None, **changes})])
    np.testing.assert_array_equal(box.pool, before)


def test_too_many_tokens_in_a_step(tiny: Any, host: Any) -> None:
    box = host(tiny(), step_tokens_max=30)
    assert box.engine.capabilities.step_tokens_max == 30
    with pytest.raises(ValueError, match="40 tokens, step_tokens_max is 30"):
        box.engine.step([span(box), span(box, pages=ids(3, 4))])


def test_too_many_spans_in_a_step(tiny: Any, host: Any) -> None:
    box = host(tiny())
    with pytest.raises(ValueError, match="257, step_spans_max is 256"):
        box.engine.step([span(box)] * 257)


def test_the_last_position_of_the_context_can_be_computed(tiny: Any, host: Any) -> None:
    box = host(tiny())
    rows = box.run([span(box, first_position=236, pages=np.arange(16, dtype=np.int32))])
    assert rows.shape == (1, 100)


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden": 80}, r"hidden = 80: .*multiple of 32"),
    ({"ffn": 100}, r"ffn = 100: .*multiple of 32"),
    ({"head_dim": 48}, r"head_dim = 48: .*multiple of 32"),
    ({"head_dim": 288}, r"head_dim = 288: must be 32 to 256"),
    ({"heads": 5}, r"heads = 5: .*multiple of kv_heads = 2"),
    ({"heads": 34}, r"heads / kv_heads = 17"),
    ({"layers": 0}, r"layers = 0"),
    ({"architecture": "mamba"}, r"architecture 'mamba'.*llama, qwen2, qwen3"),
    ({"norm_epsilon": 0.0}, r"norm_epsilon"),
])  # fmt: skip
def test_a_geometry_the_kernels_cannot_run(changes: dict[str, Any], message: str, tiny: Any) -> None:
    config = msgspec.structs.replace(tiny().config, **changes)
    with pytest.raises(ValueError, match=message):
        NativeEngine(config, {"bf16": memoryview(bytearray(64))}, "x", "bf16")


def test_weights_of_another_model_or_format_or_cut_short(tiny: Any, host: Any) -> None:
    from diptych.engine.native import packing

    model = tiny()
    other = tiny(heads=2)
    buffer = np.zeros(packing.packed_bytes(other.config, "int8") + 64, np.uint8)
    buffer = buffer[-buffer.ctypes.data % 64 :]
    packing.pack(other, "int8", buffer.data)
    with pytest.raises(ValueError, match=r"bytes, the packed model needs"):
        NativeEngine(model.config, {"bf16": buffer.data}, "x", "bf16")
    with pytest.raises(ValueError, match=r"another model or format: 'layers 2', must be 'layers 1'"):
        NativeEngine(msgspec.structs.replace(model.config, layers=1), {"int8": buffer.data}, "x", "int8")
    with pytest.raises(ValueError, match=r"multiple of 64"):
        NativeEngine(msgspec.structs.replace(other.config, layers=1), {"int8": buffer.data[4:]}, "x", "int8")


def test_arguments_of_the_engine(tiny: Any, host: Any) -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"preferred = 'int8': weights hold bf16"):
        NativeEngine(model.config, {"bf16": memoryview(b"")}, "x", "int8")
    with pytest.raises(ValueError, match=r"threads = 0: must be 1 to 256"):
        host(model, threads=0)
    with pytest.raises(ValueError, match=r"cores: needs one core for each of the 2 threads"):
        host(model, threads=2, cores=[0])
    with pytest.raises(ValueError, match=r"step_tokens_max = 0"):
        host(model, step_tokens_max=0)


def test_arguments_of_the_pool(tiny: Any, host: Any) -> None:
    box = host(tiny())
    size = box.engine.kv_format.page_bytes
    with pytest.raises(ValueError, match=r"pool: .* bytes for 65 pages"):
        box.engine.attach_pool(box.pool.data, 65)
    with pytest.raises(ValueError, match=r"pages = 0"):
        box.engine.attach_pool(box.pool.data, 0)
    with pytest.raises(ValueError, match=r"pool: must be writable"):
        box.engine.attach_pool(memoryview(bytes(size)), 1)
    with pytest.raises(ValueError, match=r"multiple of 64 bytes"):
        box.engine.attach_pool(box.pool[2:].data, 1)


def test_a_result_is_good_until_the_next_step(tiny: Any, host: Any) -> None:
    box = host(tiny())
    first = box.engine.step([span(box)])
    box.engine.step([span(box)])
    with pytest.raises(ValueError, match="not of the latest step"):
        box.engine.logits(first)


def test_a_closed_engine_says_so(tiny: Any, host: Any) -> None:
    box = host(tiny(), threads=2)
    before = threading.active_count()
    box.engine.close()
    box.engine.close()
    assert threading.active_count() == before  # the helpers are no Python threads
    with pytest.raises(ValueError, match="engine: closed"):
        box.engine.step([span(box)])


def test_capabilities(tiny: Any, host: Any) -> None:
    box = host(tiny(), ["int4", "bf16", "int8"])
    told = box.engine.capabilities
    assert told.formats == ("int4", "bf16", "int8")
    assert [name.split("/")[1] for name in told.numerics] == list(told.formats)
    assert (told.engine, told.invariant_rows, told.samples) == ("native", True, True)
    assert told.context_tokens_max == 256
