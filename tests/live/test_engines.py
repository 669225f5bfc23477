from __future__ import annotations

import msgspec
import numpy as np
import pytest
from worker_fakes import FORMATS, POOL_PAGES, FakeHost

from diptych.engine.interface import Span
from diptych.live.engines import Rates, build_engine, first_rates, worker_config
from diptych.wire.kv import decode_format, encode_format


def test_first_rates_are_what_the_engine_costs_and_leave_the_pool_alone() -> None:
    host = FakeHost()
    options = {"prompt_token_ns": 100_000, "decode_row_ns": 3_000_000}
    engine = build_engine(host.launch("both-0@1", options=options), {})
    rates = first_rates(engine)
    assert rates.prefill_ns_per_token >= 100_000
    assert rates.decode_ns_per_step >= 3_000_000
    pool = bytearray(POOL_PAGES * engine.kv_format.page_bytes)
    engine.attach_pool(memoryview(pool), POOL_PAGES)
    span = Span(
        first_position=0,
        tokens=np.array([5], np.int32),
        pages=np.array([3], np.int32),
        numerics=FORMATS[0],
        logits_from=0,
    )
    engine.step([span])
    page_bytes = engine.kv_format.page_bytes
    assert any(pool[3 * page_bytes : 4 * page_bytes])
    assert not any(pool[: 3 * page_bytes])
    host.close()


def test_a_worker_prefers_its_own_format_and_can_compute_all_of_the_host() -> None:
    host = FakeHost()
    launch = host.launch("decode-0@1", format=FORMATS[1], role="decode")
    engine = build_engine(launch, {})
    config = worker_config(launch, engine, Rates(7, 8))
    assert config.numerics == (FORMATS[1], FORMATS[0])
    assert (config.worker, config.role, config.engine) == ("decode-0@1", "decode", "scripted")
    assert (config.prefill_ns_per_token, config.decode_ns_per_step) == (7, 8)
    assert config.beat_ns * 3 == launch.lease_ns
    assert config.context_tokens_max == launch.model.context_max
    host.close()


def test_the_machine_never_asks_for_more_than_the_engine_takes() -> None:
    host = FakeHost()
    launch = host.launch("both-0@1")

    class SmallEngine:
        capabilities = msgspec.structs.replace(
            build_engine(launch, {}).capabilities, step_tokens_max=48, step_spans_max=5
        )

    config = worker_config(launch, SmallEngine(), Rates(1, 1))  # type: ignore[arg-type]
    assert (config.chunk_tokens, config.mixed_chunk_tokens, config.running_max) == (48, 48, 5)
    host.close()


def test_pages_of_another_model_are_refused_by_field() -> None:
    host = FakeHost()
    launch = host.launch("both-0@1")
    kv_format = decode_format(launch.model.kv_format)
    other = msgspec.structs.replace(kv_format, model="another")
    model = msgspec.structs.replace(launch.model, kv_format=encode_format(other))
    with pytest.raises(ValueError, match="its pages differ from the pool's in `model`"):
        build_engine(msgspec.structs.replace(launch, model=model), {})
    host.close()


@pytest.mark.torch
def test_torch_refuses_a_format_it_has_not() -> None:
    pytest.importorskip("torch", reason="the torch engine needs torch")
    host = FakeHost()
    with pytest.raises(ValueError, match="format: 'int4'; the torch engine knows float32, bf16"):
        build_engine(host.launch("both-0@1", engine="torch", format="int4"), {})
    host.close()
