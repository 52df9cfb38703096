"""Errors on the command line are one line and status 1; `doctor` names the remedy."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from regrade import BlockingRewardClient
from regrade.cli.main import app
from regrade.contracts import CycleStatus
from services.meta_reward.app import create_app
from services.meta_reward.settings import MetaRewardSettings
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK, rubric
from tests.support.fake_engine import FakeEngine, Reply
from tests.support.servers import ServerThread
from tests.support.valkey import running_valkey
from tests.support.waiting import wait_until

KEY = "the-right-key-of-a-caller"
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """Closes what is pushed on it at the end of the test."""
    with ExitStack() as stack:
        yield stack


def _meta(running: ExitStack, redis_url: str, reward_url: str, **settings: Any) -> str:
    values = {"redis_url": redis_url, "reward_url": reward_url, "llm_proposer": False, "poll_s": 60.0} | settings
    server = ServerThread(create_app(MetaRewardSettings.model_validate(values)))
    running.callback(server.stop)
    return server.url


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "REGRADE_KEY": "", "USER": "tester"} | env)


def refused(*arguments: str) -> str:
    """The one line of a command that ends with status 1."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_items_that_cannot_be_read(reward_url: str, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    wanted = ["score", TASK, "--url", reward_url, "--file", str(items)]
    assert "No such file" in refused(*wanted)
    items.write_text('{"prompt": "p"}\n')
    assert "completion: Field required" in refused(*wanted)
    items.write_text("not json\n")
    assert "Invalid JSON" in refused(*wanted)
    items.write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused(*wanted)
    items.write_text("\n")
    assert f"{items} is empty" in refused(*wanted)
    items.write_text('{"prompt": "p", "completion": "c"}\n\n{"prompt": 1, "completion": "c"}\n')
    assert f"{items}, line 3: prompt" in (message := refused(*wanted))
    assert 'A valid line: {"prompt": ' in message


def test_a_line_separator_inside_a_text_ends_no_line(reward_url: str, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"prompt": PROMPT, "completion": f"{ESSAY}\u2028{ESSAY}"}, ensure_ascii=False))
    result = run("score", TASK, "--url", reward_url, "--file", str(items), "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["results"]) == 1


@pytest.mark.parametrize("text", ["not json", "[]", '{"criteria": [], "surprise": 1}'])
def test_an_invalid_rubric(reward_url: str, tmp_path: Path, text: str) -> None:
    path = tmp_path / "rubric.json"
    path.write_text(text)
    refused("rubric", "put", TASK, str(path), "--reason", "x", "--url", reward_url)
    assert json.loads(run("rubric", "show", TASK, "--url", reward_url).stdout)["version"] == 1


def test_what_does_not_exist(running: ExitStack, redis_url: str, reward_url: str) -> None:
    meta = ["--meta-url", _meta(running, redis_url, reward_url)]
    score = ("score", "no_such_task", "--prompt", PROMPT, "--completion", ESSAY, "--url", reward_url)
    assert "unknown_task" in refused(*score)
    assert "not_served: no worker serves lineage 'main' of 'no_such_task'" in refused("evolve", "no_such_task", *meta)
    refused("rubric", "diff", TASK, "1", "7", *meta)
    refused("rubric", "rollback", TASK, "--reason", "x", "--version", "7", *meta)
    assert "no contract '[/INST]'" in refused("schema", "[/INST]")


def test_markup_in_what_people_wrote_is_text(
    running: ExitStack, redis_url: str, reward_url: str, tmp_path: Path
) -> None:
    """`by` and `reason` are free text; a rubric may quote a control token."""
    path = tmp_path / "rubric.json"
    path.write_text(rubric(preamble="[/INST] [bold]").model_dump_json())
    put = run("rubric", "put", TASK, str(path), "--by", "[/me]", "--reason", "[/INST]", "--url", reward_url)
    assert put.exit_code == 0, put.output
    history = run("rubric", "history", TASK, "--meta-url", _meta(running, redis_url, reward_url))
    assert history.exit_code == 0, history.exception
    assert "[/me]" in history.stdout
    assert "[/INST]" in history.stdout
    assert json.loads(run("rubric", "show", TASK, "--url", reward_url).stdout)["preamble"] == "[/INST] [bold]"


def test_keys(start_reward: StartReward, tmp_path: Path) -> None:
    """A wrong key is refused, a right one from the environment works, and one that may only read can't put."""
    url = start_reward(bootstrap_tasks=[TASK], api_keys=[KEY], operator_keys=["key-of-an-operator"]).url
    show = ("rubric", "show", TASK, "--url", url)
    assert "unauthorized" in refused(*show, "--key", "wrong")
    assert run(*show, REGRADE_KEY=KEY).exit_code == 0
    path = tmp_path / "rubric.json"
    path.write_text(rubric().model_dump_json())
    assert "forbidden" in refused("rubric", "put", TASK, str(path), "--reason", "x", "--url", url, "--key", KEY)


def _doctor_says(*arguments: str) -> str:
    result = run("doctor", TASK, "--originals", "2", *arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    return result.stdout


def test_doctor_without_redis(running: ExitStack, start_reward: StartReward) -> None:
    valkey = running.enter_context(running_valkey())
    url = start_reward(redis_url=valkey.url, bootstrap_tasks=[TASK]).url
    valkey.stop()
    report = _doctor_says("--url", url, "--meta-url", DEAD)
    valkey.start_again()
    assert "broken  redis behind the reward service" in report
    assert "start Redis or Valkey, and check REGRADE_REWARD_REDIS_URL" in report
    assert "ok      judge behind the reward service" in report


def test_doctor_without_meta_reward(reward_url: str) -> None:
    report = _doctor_says("--url", reward_url, "--meta-url", DEAD)
    assert "broken  meta-reward service" in report
    assert "start it: make serve, or python -m services.meta_reward" in report


def test_doctor_without_a_rubric(running: ExitStack, start_reward: StartReward, redis_url: str) -> None:
    url = start_reward().url
    report = _doctor_says("--url", url, "--meta-url", _meta(running, redis_url, url))
    assert "broken  active rubric" in report
    assert f"regrade rubric put {TASK} FILE" in report


def test_doctor_with_a_wrong_key(running: ExitStack, start_reward: StartReward, redis_url: str) -> None:
    open_url = start_reward(bootstrap_tasks=[TASK]).url
    closed_url = start_reward(api_keys=[KEY]).url
    closed_meta = _meta(running, redis_url, open_url, api_keys=[KEY])
    for urls in ((closed_url, closed_meta), (open_url, closed_meta)):
        report = _doctor_says("--url", urls[0], "--meta-url", urls[1], "--key", "wrong")
        assert "give a key this service knows: --key or REGRADE_KEY" in report
        assert "rubric put" not in report


def test_doctor_with_a_judge_that_fails_every_call(
    running: ExitStack, redis_url: str, reward_url: str, fake_engine: FakeEngine
) -> None:
    fake_engine.script = lambda _: Reply({}, 500)
    report = _doctor_says("--url", reward_url, "--meta-url", _meta(running, redis_url, reward_url))
    assert "broken  judge measured" in report
    assert "look at the reward service's log" in report


def test_doctor_reports_why_the_last_cycle_failed(
    running: ExitStack, start_reward: StartReward, redis_url: str
) -> None:
    """A meta-reward service without a key for its reward service."""
    url = start_reward(bootstrap_tasks=[TASK], api_keys=[KEY]).url
    with BlockingRewardClient(url, key=KEY) as client:
        items = [{"prompt": PROMPT, "completion": f"{ESSAY} {n}"} for n in range(8)]
        client.score(TASK, items, run="r", step=1)
    meta = _meta(running, redis_url, url, every_traces=8)
    with BlockingRewardClient(meta) as client:
        wait_until(lambda: bool(client.call("GET", f"/status/{TASK}", CycleStatus).error), "a cycle to fail")
        report = _doctor_says("--url", url, "--meta-url", meta, "--key", KEY)
    assert "broken  the last cycle failed" in report
    assert "unauthorized" in report


@pytest.mark.parametrize(
    "command",
    [
        "status TASK", "alarms TASK", "evolve TASK", "evolve TASK --wait", "pause TASK --reason x", "resume TASK",
        "cycles TASK", "cycles show TASK 1", "traces TASK", "traces show TASK x", "rubric TASK", "rubric history TASK",
        "rubric diff TASK 1 2", "rubric rollback TASK --reason x", "rubric edit TASK --reason x",
        "rubric put TASK FILE --reason x", "score TASK --completion x",
    ],
)  # fmt: skip
def test_every_command_says_that_its_service_is_down(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrade.cli.connection._PATIENCE_S", 0.0)
    path = tmp_path / "rubric.json"
    path.write_text(rubric().model_dump_json())
    words = [{"TASK": TASK, "FILE": str(path)}.get(word, word) for word in command.split()]
    result = run(*words, REGRADE_URL=DEAD, REGRADE_META_URL=DEAD)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert f"unreachable: {DEAD}" in result.stderr
    assert "`make serve` starts both services" in result.stderr
