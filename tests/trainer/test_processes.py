"""The trainer as processes: killed within a step and resumed; two ranks of one run; LoRA; scopes."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from regrade.contracts import Trace
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.trainer.records import LOG_NAME, read_log
from services.trainer.settings import TrainerSettings
from services.trainer.train import DIVERGED, train
from tests.support.builders import TASK, activate, llm, min_words, rubric
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import wait_until
from tests.trainer.test_train import policy

__all__ = ["policy"]

ROOT = Path(__file__).parents[2]
QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("training"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]


def _options(policy: Path, output: Path, url: str, **more: object) -> list[str]:
    base: dict[str, object] = {
        "model": policy, "output-dir": output, "reward-url": url, "run": "tiny", "groups-per-step": 1,
        "group-size": 2, "max-completion-tokens": 8, "save-every": 2, "use-cpu": "true",
    }  # fmt: skip
    return [part for name, value in (base | more).items() for part in (f"--{name}", str(value))]


def _spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=os.environ | QUIET, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _ends(process: subprocess.Popen[bytes], log: Path) -> int:
    try:
        return process.wait(300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise AssertionError(log.read_text()[-3_000:]) from None


def _by_step(traces: Sequence[Trace]) -> dict[int | None, list[Trace]]:
    steps: defaultdict[int | None, list[Trace]] = defaultdict(list)
    for trace in traces:
        steps[trace.step].append(trace)
    return steps


async def test_a_run_killed_within_a_step_resumes_at_that_step(
    reward_url: str, fake_engine: FakeEngine, store: RubricStore, trace_log: TraceLog, policy: Path, tmp_path: Path
) -> None:
    """SIGKILL while a step's completions are being judged; then another rubric becomes active."""
    out, log = tmp_path / "out", tmp_path / "trainer.log"
    command = ["services.trainer.train", *_options(policy, out, reward_url, steps=7)]
    process = _spawn(command, log)
    try:
        wait_until(lambda: len(read_log(out / LOG_NAME)) >= 3, "three steps")
        fake_engine.hold()
        fake_engine.forget()
        fake_engine.wait_for_calls(1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = [row["step"] for row in read_log(out / LOG_NAME)]
    assert await activate(store, rubric(llm("clarity"), min_words(5))) == 2
    fake_engine.release()
    resumed = _spawn(command, log)
    assert _ends(resumed, log) == 0, log.read_text()[-3_000:]

    assert [row["step"] for row in read_log(out / LOG_NAME)] == [1, 2, 3, 4, 5, 6, 7]
    traces = (await trace_log.recent(TASK, 100)).traces
    steps = _by_step(traces)
    assert {step: len(group) for step, group in steps.items()} == dict.fromkeys(range(7), 2), "each item once"
    versions = {step: {trace.version for trace in group} for step, group in steps.items()}
    pinned = range(len(done) + 1)  # the interrupted step was pinned, too
    assert all(versions[step] == {1} for step in pinned)
    assert all(versions[step] == {2} for step in range(len(done) + 1, 7))
    rows = [json.loads(line) for line in (out / LOG_NAME).read_text().splitlines()]
    counts = Counter(row["step"] for row in rows)
    repeated = [[row for row in rows if row["step"] == step] for step, count in counts.items() if count > 1]
    for first, again in repeated:
        assert first["reward"] == pytest.approx(again["reward"])
        assert first["loss"] == pytest.approx(again["loss"], abs=1e-6), "the loss curve continues"


async def test_two_processes_share_a_group_and_its_rubric(
    reward_url: str, store: RubricStore, trace_log: TraceLog, policy: Path, tmp_path: Path
) -> None:
    """A group of four on two ranks; the rubric changes under way; a step is never scored by two."""
    out, log = tmp_path / "out", tmp_path / "trainer.log"
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    config = tmp_path / "run.yaml"  # JSON is YAML; `torchrun` takes an option --run for one of its own
    base = {"model": str(policy), "output_dir": str(out), "reward_url": reward_url, "run": "tiny", "steps": 4}
    config.write_text(
        json.dumps(base | {"groups_per_step": 1, "group_size": 4, "max_completion_tokens": 8, "use_cpu": True})
    )
    process = _spawn([*launch, "services.trainer.train", "--config", str(config)], log)
    try:
        wait_until(lambda: len(read_log(out / LOG_NAME)) >= 2 or process.poll() is not None, "two steps")
        assert process.poll() is None, log.read_text()[-3_000:]
        assert await activate(store, rubric(llm("clarity"))) == 2
        assert _ends(process, log) == 0, log.read_text()[-3_000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    steps = _by_step((await trace_log.recent(TASK, 100)).traces)
    assert sorted(step for step in steps if step is not None) == list(range(4))
    for group in steps.values():
        assert sorted(trace.item_id for trace in group) == ["0.0", "0.1", "1.0", "1.1"]
        assert len({trace.group for trace in group}) == 1, "one prompt, split over both"
        assert len({trace.digest for trace in group}) == 1
    assert {trace.version for group in steps.values() for trace in group} == {1, 2}


def test_a_diverged_run_has_its_own_exit_status(reward_url: str, policy: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "trainer.log"
    options = _options(policy, out, reward_url, steps=50, **{"stop.max-grad-norm": 1e-9, "stop.patience": 2})
    assert _ends(_spawn(["services.trainer.train", *options], log), log) == DIVERGED, log.read_text()[-3_000:]
    assert "grad_norm" in log.read_text()
    assert 2 <= len(read_log(out / LOG_NAME)) < 50
    assert not (out / "final").exists()


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
async def test_lora_with_kl_accumulation_and_tensorboard(
    reward_url: str, trace_log: TraceLog, policy: Path, tmp_path: Path, algorithm: str
) -> None:
    settings = TrainerSettings.model_validate(
        {
            "model": str(policy), "output_dir": tmp_path, "reward_url": reward_url, "run": "lora", "steps": 2,
            "groups_per_step": 3, "group_size": 2, "max_completion_tokens": 8, "use_cpu": True,
            "algorithm": algorithm, "lora": {"rank": 2}, "beta": 0.1, "accumulation": 2, "log_to": ["tensorboard"],
        }
    )  # fmt: skip
    assert train(settings) is None
    entries = read_log(tmp_path / LOG_NAME)
    assert [entry["step"] for entry in entries] == [1, 2]
    assert all("kl" in entry and "regrade/criterion/quality" in entry for entry in entries)
    assert any(name.startswith("events.out.tfevents") for name in os.listdir(tmp_path / "tensorboard"))
    assert "adapter_model.safetensors" in os.listdir(tmp_path / "final")
    traces = (await trace_log.recent(TASK, 100)).traces
    assert sorted((t.step, t.item_id) for t in traces) == [(step, f"0.{n}") for step in (0, 1) for n in range(6)]


async def test_a_prompts_scope_is_scored_by_its_own_rubric(
    reward_url: str, store: RubricStore, trace_log: TraceLog, policy: Path, tmp_path: Path
) -> None:
    """The scope column of the data reaches the service, and the mix with the exact answer its reference."""
    await activate(store, rubric(llm("guideline")), lineage=LineageKey("math_reasoning", "main", "algebra"))
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "What is 2 + 2?", "answer": "4", "subject": "Algebra"}\n')
    settings = TrainerSettings.model_validate(
        {
            "task": "math_reasoning", "model": str(policy), "output_dir": tmp_path / "out", "reward_url": reward_url,
            "run": "scoped", "steps": 1, "groups_per_step": 1, "group_size": 2, "max_completion_tokens": 8,
            "use_cpu": True, "mode": "expected", "rewards": {"judge": 1, "answer": 1},
            "data": {
                "source": str(problems),
                "columns": {"prompt": "problem", "reference": "answer", "scope": "subject"},
            },
        }
    )  # fmt: skip
    assert train(settings) is None
    traces = (await trace_log.recent("math_reasoning", 10)).traces
    assert [(trace.scope, trace.reference) for trace in traces] == [("algebra", "4")] * 2
    row = read_log(tmp_path / "out" / LOG_NAME)[0]
    assert row["regrade/answer"] == 0.0
    assert row["reward"] == pytest.approx(sum(trace.reward for trace in traces) / 4)
