"""A cycle from the command line: how many traces it has, waiting for its result, refusals, and looking at it."""

import json
from collections.abc import Iterator

import httpx
import pytest
from typer.testing import CliRunner, Result

from regrade.cli.main import app
from regrade.tasks import load_pack
from services.meta_reward.app import create_app
from services.meta_reward.settings import MetaRewardSettings
from tests.conftest import StartReward
from tests.support.builders import TASK
from tests.support.meta import POOR
from tests.support.servers import ServerThread

PROMPTS = load_pack(TASK).prompts


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"REGRADE_KEY": "", "USER": "tester"})


@pytest.fixture
def meta(redis_url: str, reward_url: str) -> Iterator[list[str]]:
    """Options for a meta-reward service that starts cycles on request only, on eight traces."""
    values = {"redis_url": redis_url, "reward_url": reward_url, "llm_proposer": False, "poll_s": 0.05}
    limits = {"request_traces": 8, "alarm_traces": 0, "gate_originals": 12, "gate_alpha": 0.2}
    server = ServerThread(create_app(MetaRewardSettings.model_validate(values | limits)))
    yield ["--meta-url", server.url]
    server.stop()


def train(reward_url: str, count: int, step: int = 1) -> None:
    items = [
        {"id": str(n), "prompt": PROMPTS[n % 4].prompt, "completion": f"{POOR}{' ' * (n + step)}"} for n in range(count)
    ]
    body = {"task": TASK, "run": "r", "step": step, "items": items}
    httpx.post(f"{reward_url}/score", json=body, timeout=60.0).raise_for_status()


def _first_words(text: str) -> list[str]:
    return [row.split()[0] for row in text.splitlines()]


def test_too_few_traces_are_counted(meta: list[str], reward_url: str) -> None:
    for count in (0, 3):
        if count:
            train(reward_url, count)
        refused = run("evolve", TASK, *meta)
        assert refused.exit_code == 1
        assert f"{count} training traces wait" in refused.stderr
        assert "needs 8" in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert run("evolve", TASK, "--wait", *meta).exit_code == 1
    assert "no cycle has ended" in run("cycles", TASK, *meta).stdout


@pytest.mark.parametrize("command", ["status", "cycles", "traces", "alarms", "pause", "resume"])
def test_a_task_without_a_rubric_is_no_idle_one(meta: list[str], command: str) -> None:
    reason = ["--reason", "x"] if command in ("pause", "resume") else []
    unknown = run(command, "esay_writing", *reason, *meta)
    assert (unknown.exit_code, unknown.stdout, unknown.stderr.count("\n")) == (1, "", 1)
    assert "'esay_writing'" in unknown.stderr
    scoped = run(command, TASK, "--scope", "poems", *reason, *meta)
    assert (scoped.exit_code, "'poems'" in scoped.stderr) == (1, True)
    assert run(command, TASK, *reason, *meta).exit_code == 0


def test_evolve_waits_and_the_cycle_can_be_looked_at(meta: list[str], reward_url: str) -> None:
    train(reward_url, 8)
    ended = run("evolve", TASK, "--wait", *meta)
    assert ended.exit_code == 0, ended.output
    assert "cycle requested on 8 traces; 0 cycles done before" in ended.stdout
    assert "cycle 1: activated" in ended.stdout
    assert f"regrade cycles show {TASK} 1" in ended.stdout
    train(reward_url, 9, step=2)
    second = run("evolve", TASK, "--wait", *meta)
    assert "cycle requested on 9 traces; 1 cycle done before" in second.stdout
    assert "cycle 2: " in second.stdout

    listed = run("cycles", TASK, *meta).stdout
    assert listed == run("cycles", "list", TASK, *meta).stdout
    assert _first_words(listed) == ["cycle", "1", "2"]
    assert _first_words(run("cycles", "--limit", "1", TASK, *meta).stdout) == [
        "cycle",
        "2",
    ]
    report = json.loads(run("cycles", "show", TASK, "1", "--json", *meta).stdout)
    by_id = run("cycles", "show", TASK, report["cycle"], *meta).stdout
    assert by_id == run("cycles", "show", TASK, "1", *meta).stdout
    assert "trigger: requested by tester" in by_id
    assert "min_words" in run("rubric", TASK, "--url", reward_url).stdout
    assert len(run("traces", TASK, *meta).stdout.splitlines()) == 18
    assert "no trace matches" in run("traces", TASK, "--run", "none", *meta).stdout
    unknown = run("cycles", "show", TASK, "3", *meta)
    assert (unknown.exit_code, "1 to 2" in unknown.stderr) == (1, True)


def test_a_cycle_that_fails_ends_the_waiting(start_reward: StartReward, redis_url: str) -> None:
    """A meta-reward service without a key for its reward service."""
    url = start_reward(bootstrap_tasks=[TASK], api_keys=["key-of-the-trainer"]).url
    items = [{"id": str(n), "prompt": PROMPTS[n].prompt, "completion": POOR} for n in range(8)]
    body = {"task": TASK, "run": "r", "step": 1, "items": items}
    key = {"Authorization": "Bearer key-of-the-trainer"}
    httpx.post(f"{url}/score", json=body, headers=key, timeout=60.0).raise_for_status()
    values = {"redis_url": redis_url, "reward_url": url, "llm_proposer": False, "poll_s": 0.05, "request_traces": 8}
    server = ServerThread(create_app(MetaRewardSettings.model_validate(values)))
    try:
        failed = run("evolve", TASK, "--wait", "--meta-url", server.url)
        assert failed.exit_code == 1
        assert "the cycle failed: AccessError: unauthorized" in failed.stderr
        assert "key-of-the-trainer" not in failed.output
    finally:
        server.stop()
