"""The headline figures, and the conditions under which a measurement counts."""

import json
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.common.load import check_score, score_bodies
from benchmarks.common.output import write_json
from benchmarks.score import peers
from benchmarks.score.report import (
    CALLS,
    FAN_OUT,
    SERVICE,
    LoadResult,
    RoundResult,
    document,
    headlines,
    meets_target,
    ratio,
)  # fmt: skip
from tests.support.texts import groups


def row(name: str, kind: str, *cpu_us: float, delay_ms: int = 0, in_flight: int = 64, criteria: int = 1) -> LoadResult:
    samples = [RoundResult(cpu_us=us, items_s=1e6 / us, p50_ms=1.0, p99_ms=2.0) for us in cpu_us]
    return LoadResult(name, kind, delay_ms, criteria, in_flight, samples)


ROWS = [
    row(SERVICE, "service", 40.0, 44.0, 80.0, in_flight=16),
    row(SERVICE, "service", 30.0, 30.0, 30.0, in_flight=128),
    row(SERVICE, "service", 900.0, 900.0, 900.0, in_flight=128, criteria=3),
    row(FAN_OUT, "limit", 10.0, 10.0, 10.0, in_flight=128),
    row(CALLS, "client", 80.0, 88.0, 80.0),
    row("ruler", "grouped", 400.0, 440.0, 800.0),
    row("plodder", "pointwise", 4_000.0, 4_000.0, 4_000.0),
    row("sprinter", "pointwise", 1_000.0, 1_100.0, 1_000.0),
    row(SERVICE, "service", 20.0, 20.0, 20.0, delay_ms=50, in_flight=16),
    row(SERVICE, "service", 40.0, 50.0, 80.0, delay_ms=50, in_flight=128),
    row(FAN_OUT, "limit", 10.0, 10.0, 10.0, delay_ms=50, in_flight=16),
    row(FAN_OUT, "limit", 32.0, 45.0, 72.0, delay_ms=50, in_flight=128),
]


def test_headlines_use_the_costlier_concurrency_and_the_cheapest_peer() -> None:
    figures = headlines(ROWS)
    assert figures["regrade_cpu_us"] == 44.0
    assert figures["regrade_over_aiohttp"] == pytest.approx(0.5)
    assert figures["regrade_over_ruler"] == pytest.approx(0.1)
    assert figures["regrade_over_cheapest_pointwise"] == pytest.approx(0.04)
    assert figures["cheapest_pointwise"] == "sprinter"
    assert figures["throughput_over_fan_out"] == pytest.approx(0.9)


def test_a_ratio_is_taken_within_each_round() -> None:
    twice_as_slow_a_machine = row("a", "service", 10.0, 20.0, 10.0), row("b", "client", 20.0, 40.0, 40.0)
    assert ratio(*twice_as_slow_a_machine, "cpu_us") == pytest.approx(0.5)


def test_a_ratio_needs_equally_many_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio(row("a", "service", 1.0, 2.0), row("b", "client", 1.0), "cpu_us")


def test_figures_without_a_measurement_are_none() -> None:
    figures = headlines([r for r in ROWS if r.kind == "service"])
    assert figures["regrade_cpu_us"] == 44.0
    assert figures["regrade_over_aiohttp"] is None
    assert figures["regrade_over_cheapest_pointwise"] is None
    assert figures["throughput_over_fan_out"] is None


def test_targets() -> None:
    assert meets_target("regrade_over_aiohttp", 0.7)
    assert not meets_target("regrade_over_aiohttp", 0.71)
    assert meets_target("throughput_over_fan_out", 0.92)
    assert not meets_target("throughput_over_fan_out", 0.91)


def test_figures_are_per_item() -> None:
    measured = {"items": 200, "cpu_s": 0.01, "wall_s": 0.5, "latencies_s": [0.1] * 99 + [0.9], "redis_cpu_s": 0.002}
    assert RoundResult.of(measured) == RoundResult(
        cpu_us=50.0, items_s=400.0, p50_ms=100.0, p99_ms=100.0, redis_us=10.0
    )


def test_the_headline_figures_are_at_the_top_of_the_json(tmp_path: Path) -> None:
    write_json(tmp_path / "out" / "score.json", document(ROWS, {"rubric": "no network"}, {"rounds": 3}))
    read = json.loads((tmp_path / "out" / "score.json").read_text())
    assert read["regrade_over_ruler"] == pytest.approx(0.1)
    assert read["skipped"] == {"rubric": "no network"}
    assert read["rows"][0]["samples"][2]["cpu_us"] == 80.0


def test_texts_and_steps_are_unique() -> None:
    bodies = [json.loads(body) for seed in "ab" for body in score_bodies("bench_1", seed, 4)]
    items = [item for body in bodies for item in body["items"]]
    assert len({item["completion"] for item in items}) == len(items) == 8 * 16
    assert len({item["prompt"] for item in items}) == 8 * 2
    assert len({body["step"] for body in bodies}) == 8
    assert all(len(g.completions) == 8 for g in islice(groups("c"), 3))


@pytest.mark.parametrize("change", [{"reward": None}, {"cached": True}, {"error": {"code": "judge_refused"}}])
def test_a_response_that_was_not_newly_judged_voids_a_measurement(change: dict[str, object]) -> None:
    good = {"reward": 0.5, "error": None, "cached": False}
    check_score(json.dumps({"results": [good] * 16}).encode())
    with pytest.raises(RuntimeError, match="not newly judged"):
        check_score(json.dumps({"results": [good] * 15 + [good | change]}).encode())


@pytest.mark.parametrize("peer", peers.peers())
def test_every_peer_is_pinned_without_gpu_packages(peer: str) -> None:
    lines = [line for line in (peers.PINS / f"{peer}.txt").read_text().splitlines() if line[0] != "#"]
    assert peers.version(peer)
    assert all("==" in line for line in lines)
    assert not [line for line in lines if line.split("==")[0].lower().startswith(("torch", "nvidia", "triton"))]
    assert (peers.PINS / f"{peer}.py").exists()
