"""Both sides of the fidelity comparison get the same requests, and its arithmetic is right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from diptych.sim.workloads.ask import Ask
from diptych.sim.workloads.spec import Common, read_workload

Bench = Callable[[str], ModuleType]
SHAPE = "input=20-60,output=2-5,shared=16"


class Server:
    """Answers completions at once, with as many tokens as were asked for; keeps what it was sent and when."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.came_s: list[float] = []
        self.port = 0
        self.cut = False
        """Answers with one token too few."""
        self.single = False
        """Ends every connection behind its first answer."""
        self.deaf = False
        """Never answers."""

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await self._head(reader):
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
            body = json.loads(await reader.readexactly(int(length[16:])))
            self.came_s.append(asyncio.get_running_loop().time())
            self.bodies.append(body)
            if self.deaf:
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nX-Request-Id: id-%d\r\n\r\n" % len(self.bodies))
            count = body["max_tokens"] - self.cut
            events = [{"choices": [{"text": "a"}]} for _ in range(count)]
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count}
            for event in (*events, {"choices": [], "usage": usage}):
                text = b"data: " + json.dumps(event).encode() + b"\n\n"
                writer.write(b"%x\r\n%s\r\n" % (len(text), text))
                await writer.drain()
                await asyncio.sleep(0.001)
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(b"\r\n")
            if self.single:
                break
        writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""


def sent(bench: Bench, spec: str, server: Server) -> list[Any]:
    traffic = bench("traffic")

    async def run() -> list[Any]:
        async with await server.serve():
            wording = traffic.Wording("m", range(97, 123), spec)
            found: list[Any] = await traffic.Traffic(
                server.port, read_workload(spec, Common()), wording
            ).run()
            return found

    return asyncio.run(run())


def asks_of(spec: str) -> list[Ask]:
    """The workload as the simulator is given it."""
    return list(read_workload(spec, Common()).asks())


def all_of(spec: str) -> list[Ask]:
    """Also those that clients send after an answer."""
    workload = read_workload(spec, Common())
    waiting, asks = list(workload.asks()), []
    while waiting:
        asks.append(waiting.pop(0))
        after = workload.ended(asks[-1], 0, served=True)
        waiting += [] if after is None else [after]
    return asks


def test_both_sides_get_the_same_requests_at_the_same_times(bench: Bench) -> None:
    spec, server = f"poisson:rate=100,requests=12,{SHAPE}", Server()
    trips = {trip.request: trip for trip in sent(bench, spec, server)}
    asks = asks_of(spec)
    assert [ask.request for ask in asks] == sorted(trips, key=lambda name: trips[name].planned_ns)
    for ask in asks:
        trip = trips[ask.request]
        assert (trip.prompt_tokens, trip.output_tokens) == (ask.text.tokens, ask.tokens_max)
        assert trip.planned_ns == ask.at_ns
        # Never early; how late depends on the machine.
        assert trip.sent_ns >= ask.at_ns - 1_000_000
        assert len(trip.pieces_ns) == ask.tokens_max
        assert trip.sent_ns < trip.first_ns <= trip.pieces_ns[-1] <= trip.end_ns
    assert all(body["ignore_eos"] and body["temperature"] == 0 for body in server.bodies)


def test_a_closed_loop_asks_for_the_same_lengths_as_simulated(bench: Bench) -> None:
    spec, server = f"closed:clients=3,think=0,requests=10,{SHAPE}", Server()
    trips = sent(bench, spec, server)
    asks = all_of(spec)
    assert {(trip.request, trip.prompt_tokens, trip.output_tokens) for trip in trips} == {
        (ask.request, ask.text.tokens, ask.tokens_max) for ask in asks
    }
    assert len(trips) == 10


def test_connections_that_the_server_ends_are_not_used_again(bench: Bench) -> None:
    server = Server()
    server.single = True
    assert len(sent(bench, f"closed:clients=2,think=0.01,requests=20,{SHAPE}", server)) == 20
    assert len(server.bodies) >= 20


def test_a_fleet_that_does_not_answer_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench("traffic"), "ANSWER_LIMIT_S", 0.2)
    server = Server()
    server.deaf = True
    with pytest.raises(RuntimeError, match=r"no answer has ended for 0.2 s, 3 are missing"):
        sent(bench, f"poisson:rate=100,requests=3,{SHAPE}", server)


def test_what_texts_share_their_prompts_share_and_nothing_else(bench: Bench) -> None:
    traffic = bench("traffic")
    first, second = asks_of(f"poisson:rate=1,requests=2,{SHAPE}")
    wording = traffic.Wording("m", range(97, 123), "one")
    prompts = [wording.prompt(ask) for ask in (first, second)]
    assert [len(prompt) for prompt in prompts] == [first.text.tokens, second.text.tokens]
    assert prompts[0][:16] == prompts[1][:16]
    assert prompts[0][16:32] != prompts[1][16:32]
    assert set(prompts[0]) <= set(range(97, 123))
    assert wording.prompt(first) == prompts[0]
    assert traffic.Wording("m", range(97, 123), "two").prompt(first)[:16] != prompts[0][:16]


def test_an_answer_that_is_cut_is_no_sample(bench: Bench) -> None:
    server = Server()
    server.cut = True
    with pytest.raises(RuntimeError, match=r"r0: \d of \d tokens came"):
        sent(bench, f"poisson:rate=100,requests=1,{SHAPE}", server)


def test_a_refusal_says_what_the_server_said(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="429 busy"):
        bench("traffic").read_answer([(0, b"HTTP/1.1 429 Too Many\r\n\r\nbusy")])


def test_pieces_have_the_time_of_the_read_they_ended_in(bench: Bench) -> None:
    event = b'data: {"choices":[{"text":"a"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":3}}\n\n'
    head = b"HTTP/1.1 200 OK\r\nx-request-id: r\r\n\r\n"
    answer = bench("traffic").read_answer([(5, head + event), (7, event[:9]), (9, event[9:] + event + usage)])
    assert answer.pieces_ns == (5, 9, 9)
    assert (answer.id, answer.prompt_tokens, answer.output_tokens) == ("r", 3, 3)


def requests(bench: Bench, scale: float = 1.0) -> list[Any]:
    """One a second, of 10 tokens; TTFT 100 ms and more, tokens 10 ms apart."""
    made = bench("comparison").Request
    return [
        made(
            number=at,
            ttft_ns=round((100 + at) * 1e6 * scale),
            door_ttft_ns=round((90 + at) * 1e6 * scale),
            end_ns=at * 1_000_000_000 + 500_000_000,
            output_tokens=10,
            pieces_ns=tuple(at * 1_000_000_000 + round(piece * 10e6 * scale) for piece in range(10)),
        )
        for at in range(40)
    ]


def test_equal_sides_differ_by_nothing(bench: Bench) -> None:
    comparison = bench("comparison")
    one = comparison.sample(requests(bench), 8)
    assert [difference.error for difference in comparison.compare(one, one)] == [0.0] * 6


def test_errors_are_shares_of_the_live_figure(bench: Bench) -> None:
    comparison = bench("comparison")
    live, slower = (comparison.sample(requests(bench, scale), 8) for scale in (1.0, 1.2))
    found = {one.name: one for one in comparison.compare(live, slower)}
    assert found["TTFT p50"].error == pytest.approx(0.2)
    assert found["TTFT p50"].live == pytest.approx(100 + np.median(range(8, 40)))
    assert found["TTFT at the door p50"].live == pytest.approx(90 + np.median(range(8, 40)))
    assert found["ITL p90"].error == pytest.approx(0.2)
    assert found["ITL p50"].live == pytest.approx(10)
    assert found["throughput"].error == 0
    assert found["throughput"].live == pytest.approx(10)
    # Every request is slower by as much, whichever are drawn.
    assert found["TTFT p50"].noise == pytest.approx(0, abs=1e-9)


def test_noise_is_that_of_the_error_over_requests(bench: Bench) -> None:
    comparison = bench("comparison")
    live = comparison.sample(requests(bench), 8)
    uneven = [
        comparison.Request(
            number=one.number, ttft_ns=one.ttft_ns * (1 + one.number % 2), door_ttft_ns=one.door_ttft_ns,
            end_ns=one.end_ns, output_tokens=one.output_tokens, pieces_ns=one.pieces_ns,
        )
        for one in requests(bench)
    ]  # fmt: skip
    found = {one.name: one for one in comparison.compare(live, comparison.sample(uneven, 8))}
    assert 0.1 < found["TTFT p50"].noise < 0.6
    assert found["TTFT at the door p50"].noise == 0


def test_warm_up_and_tail_are_left_out(bench: Bench) -> None:
    comparison = bench("comparison")
    served = requests(bench)
    found = comparison.sample(served, 8, 10)
    assert len(found.ttft_ms) == 32
    # 22 ends in as many seconds, each of 10 tokens.
    assert found.tokens_per_s == pytest.approx(10)
    assert found.requests_per_s == pytest.approx(1)
    # Tokens that came before the warm-up had ended do not count either.
    straddling = comparison.Request(
        number=40, ttft_ns=1, door_ttft_ns=1, end_ns=10**12, output_tokens=3,
        pieces_ns=(0, served[7].end_ns - 1, served[7].end_ns + 9_000_000),
    )  # fmt: skip
    more = comparison.sample([*served, straddling], 8)
    assert sum(map(len, more.gaps_ms)) == sum(map(len, found.gaps_ms)) + 1
    with pytest.raises(ValueError, match="too few"):
        comparison.sample(served, 30, 9)


def test_the_simulated_side_leaves_its_warm_up_out(bench: Bench, tmp_path: Path) -> None:
    from diptych.sim.costs.file import CostFile, HostCosts, LinkCosts
    from diptych.sim.fleet import Limits, plan_fleet, read_groups

    sides = bench("fidelity_sides")
    path = tmp_path / "fleet.toml"
    path.write_text(sides.SETUPS["scripted"].workers)
    file, groups = read_groups(path, (), ())
    host = HostCosts(request_ns=2_000_000, prompt_token_ns=100)
    costs = CostFile(workers={}, link=LinkCosts(latency_ns=1000), host=host)
    spec = f"closed:clients=2,think=0,requests=20,{SHAPE}"
    plan = plan_fleet(file, groups, costs, Limits())
    whole, part = (sides.simulate(plan, costs, spec, warm_up, 2) for warm_up in (1, 10))
    assert len(whole.ttft_ms) == 19
    assert len(part.ttft_ms) == 10
    outside = whole.ttft_ms - whole.door_ttft_ms
    assert ((outside > 2.0) & (outside < 2.01)).all()
    tokens = sum(ask.tokens_max - 1 for ask in all_of(spec))
    assert 0 < len(part.gaps_ms[0]) < len(whole.gaps_ms[0]) <= tokens
    # A decode step of one or two sequences: 5.3 or 5.6 ms.
    assert whole.gaps_ms[0].min() >= 5.29


def test_rows_fail_beyond_their_bounds(bench: Bench, tmp_path: Path) -> None:
    comparison, sides, fidelity = bench("comparison"), bench("fidelity_sides"), bench("fidelity")
    live = comparison.sample(requests(bench), 8)
    off = comparison.sample(requests(bench, 1.11), 8)

    def cell(fleet: str, *, saturated: bool = False) -> Any:
        return sides.Cell(
            fleet=fleet, name="x", spec="y", load=0.8, saturated=saturated, host_load=1.0,
            live=live, simulated=off, differences=comparison.compare(live, off),
        )  # fmt: skip

    missed = [row.name for row in fidelity.rows_of(cell("scripted")) if row.missed]
    assert missed == ["scripted, x: " + name for name in ("TTFT p50", "TTFT at the door p50", "ITL p50")]
    assert not any(row.missed for row in fidelity.rows_of(cell("native")))
    assert not any(row.must for row in fidelity.rows_of(cell("scripted", saturated=True)))
    bench("fidelity_page").write_page(tmp_path / "page.html", [cell("native")], {"run": "a < b"})
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 4
    assert "a &lt; b" in text
    assert "+11.0%" in text


def test_pauses_ask_for_the_wanted_load(bench: Bench) -> None:
    fidelity, sides = bench("fidelity"), bench("fidelity_sides")
    setup = sides.SETUPS["scripted"]
    # 24 clients, 10 requests a second at most: 8 are wanted, so a client asks every 3 s.
    assert "think=2.5," in fidelity.pausing(setup, 10.0, 0.5)
    assert "think=0," in fidelity.pausing(setup, 10.0, 5.0)
    assert fidelity.poisson(0.2, 12.345, 7).startswith("poisson:rate=2.47,requests=7,")
    assert fidelity.poisson(0.2, 10.0, 1000).startswith("poisson:rate=2,requests=90,")
    assert fidelity.poisson(0.2, 0.1, 1000).startswith("poisson:rate=0.02,requests=40,")


def test_drift_is_that_of_points_measured_twice(bench: Bench) -> None:
    from diptych.sim.costs.measured import MeasuredCosts
    from diptych.sim.costs.model import DecodePoint, PromptPoint

    def costs(scale: int, *more: DecodePoint) -> MeasuredCosts:
        return MeasuredCosts(
            prompt=(PromptPoint(1, 0, 10 * scale),), decode=(DecodePoint(1, 1, 20 * scale), *more)
        )

    assert bench("fidelity").drifts(costs(10), costs(11, DecodePoint(8, 1, 9999))) == pytest.approx(0.1)
