"""The `regrade` command against both services."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from regrade import BlockingRewardClient
from regrade.cli.main import _HELP, app
from regrade.tasks import load_pack
from services.meta_reward.app import create_app
from services.meta_reward.settings import MetaRewardSettings
from tests.support.builders import ESSAY, PROMPT, TASK, llm, min_words, rubric
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain
from tests.support.servers import ServerThread

HONEST = {original.completion for original in load_pack(TASK).originals}


@pytest.fixture
def urls(redis_url: str, reward_url: str, fake_engine: FakeEngine) -> Iterator[list[str]]:
    """Options that name both services."""
    settings = MetaRewardSettings.model_validate(
        {
            "redis_url": redis_url,
            "reward_url": reward_url,
            "meta_judge_url": fake_engine.url,
            "llm_proposer": False,
            "tasks": [TASK],
            "poll_s": 0.05,
        }
    )
    meta = ServerThread(create_app(settings))
    yield ["--url", reward_url, "--meta-url", meta.url]
    meta.stop()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "REGRADE_KEY": "", "USER": "tester"})


def fine(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_package_is_the_command() -> None:
    command = [sys.executable, "-m", "regrade", "schema"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "ScoreRequest" in printed.split()


def test_score(urls: list[str], tmp_path: Path) -> None:
    table = fine("score", TASK, "--prompt", PROMPT, "--completion", ESSAY, *urls[:2])
    assert "v1" in table
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(json.dumps({"prompt": PROMPT, "completion": t}) for t in (ESSAY, "")))
    answer = json.loads(fine("score", TASK, "--file", str(items), "--json", *urls[:2]))
    assert [result["flags"] for result in answer["results"]] == [[], ["empty"]]
    assert run("score", TASK, *urls[:2]).exit_code == 1


def test_rubrics(urls: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(rubric(llm(), min_words(12)).model_dump_json())
    reward, meta = urls[:2], urls[2:]
    assert "version 2 is active" in fine("rubric", "put", TASK, str(own), "--reason", "house style", *reward)
    assert json.loads(fine("rubric", "show", TASK, *reward))["version"] == 2
    assert json.loads(fine("rubric", "show", TASK, "--version", "1", *reward))["version"] == 1
    assert "min_words(words=12)" in fine("rubric", "diff", TASK, "1", "2", *meta)
    assert "version 1 is active" in fine("rubric", "rollback", TASK, "--reason", "too strict", *meta)
    history = fine("rubric", "history", TASK, *meta)
    assert "house style" in history
    assert "rolled_back" in history


def test_anchors_import(urls: list[str], tmp_path: Path) -> None:
    """A repeated pair is stored once; an invalid pair is refused with one line."""
    own = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": PROMPT, "better": f"{ESSAY} {n}", "worse": f"Trees {n}"} for n in range(6)]
    own.write_text("\n".join(json.dumps(pair) for pair in [*pairs, pairs[0]]))
    meta = urls[2:]
    before = httpx.get(f"{meta[1]}/anchors/{TASK}").json()
    output = fine("anchors", "import", TASK, str(own), "--reason", "our graders", *meta)
    assert output == fine("anchors", "import", TASK, str(own), "--reason", "once more", *meta)
    after = httpx.get(f"{meta[1]}/anchors/{TASK}").json()
    assert (before["pairs"], after["pairs"]) == (0, 6)
    assert after["cases"] - before["cases"] == 2 * (after["originals"] - before["originals"]) > 0
    assert after["version"] != before["version"]
    assert "6 pairs" in output
    own.write_text(json.dumps({"prompt": PROMPT, "better": ESSAY, "worse": ESSAY}))
    refused = run("anchors", "import", TASK, str(own), "--reason", "why", *meta)
    assert refused.exit_code == 1
    assert "same text" in refused.output
    assert run("anchors", "import", TASK, str(tmp_path / "none"), "--reason", "why", *meta).exit_code == 1
    own.write_text(json.dumps(pairs[0]))
    assert run("anchors", "import", "no_such_task", str(own), "--reason", "why", *meta).exit_code == 1


def test_a_rollback_whose_answer_was_lost_goes_back_once(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The client retries; the service has rolled back already, and refuses to roll back further."""
    with BlockingRewardClient(urls[1]) as client:
        for words in (12, 13):
            client.put_rubric(TASK, rubric(llm(), min_words(words)), by="me", reason="a test")
        request = httpx.AsyncClient.request

        async def loses_the_first_answer(self: httpx.AsyncClient, method: str, *args: Any, **options: Any) -> Any:
            answer = await request(self, method, *args, **options)
            if method == "POST":
                monkeypatch.setattr(httpx.AsyncClient, "request", request)
                raise httpx.ReadError("lost")
            return answer

        monkeypatch.setattr(httpx.AsyncClient, "request", loses_the_first_answer)
        result = run("rubric", "rollback", TASK, "--reason", "too strict", *urls[2:])
        assert result.exit_code == 1
        assert "another rubric is active" in result.output
        assert client.rubric(TASK).version == 2


def test_errors_are_one_line(urls: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"criteria": []}')
    for arguments, words in (
        (("rubric", "show", "no_such_task", *urls[:2]), "unknown_task"),
        (("rubric", "put", TASK, str(tmp_path / "none.json"), "--reason", "x", *urls[:2]), "No such file"),
        (("rubric", "put", TASK, str(broken), "--reason", "x", *urls[:2]), "criteria"),
        (("schema", "Nothing"), "no contract"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert words in result.output
        assert "Traceback" not in result.output


def _commands(command: Any, path: str = "regrade") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{path} {name}")


def test_every_command_and_option_has_a_help_text() -> None:
    for path, command in _commands(get_command(app)):
        assert command.help, path
        assert path == "regrade" or f"Example: {path.split()[0]} {path.split()[1]}" in command.help, path
        assert [parameter.name for parameter in command.params if not getattr(parameter, "help", "")] == [], path


def test_the_environment_names_the_meta_reward_service() -> None:
    result = CliRunner().invoke(app, ["status", TASK], env={"REGRADE_META_URL": "http://127.0.0.1:9"})
    assert "unreachable: http://127.0.0.1:9" in result.output


def test_schema() -> None:
    assert "Rubric" in fine("schema").split()
    assert json.loads(fine("schema", "Rubric"))["title"] == "Rubric"


def _knows_honest_text(messages: Messages) -> Reply:
    return certain(5 if any(text in messages[1]["content"] for text in HONEST) else 1)


def test_doctor_with_a_judge_that_can_tell(urls: list[str], fake_engine: FakeEngine) -> None:
    """A judge that knows honest texts by heart misses damage that is made of honest text."""
    fake_engine.script = _knows_honest_text
    report = fine("doctor", TASK, "--originals", "4", *urls)
    assert "anchor AUC of the judge alone, one-line rubric: 0.86" in report
    assert "warning" not in report


def test_doctor_with_a_judge_that_can_not(urls: list[str], fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda _: certain(3)
    report = fine("doctor", TASK, "--originals", "4", *urls)
    assert "warning" in report
    assert "0.50" in report
    assert "stronger model" in report


def test_doctor_measures_for_a_limited_time(urls: list[str], fake_engine: FakeEngine, tmp_path: Path) -> None:
    """One batch at least; the report says how many pairs it rests on. With another rubric active, both are measured."""
    fake_engine.script = _knows_honest_text
    cut_short = fine("doctor", TASK, "--originals", "4", "--seconds", "0", *urls)
    assert "measuring the judge alone: 32 texts, 0 s at most" in cut_short
    assert "(3 of 28 pairs)" in cut_short
    assert "active rubric:" not in cut_short.replace("active rubric of", "")
    own = tmp_path / "own.json"
    own.write_text(rubric(llm(), min_words(12)).model_dump_json())
    fine("rubric", "put", TASK, str(own), "--reason", "house style", *urls[:2])
    both = fine("doctor", TASK, "--originals", "4", "--seconds", "600", *urls)
    assert "measuring the active rubric: 32 texts" in both
    assert both.count("(28 of 28 pairs)") == 2
    assert fake_engine.calls


def test_the_version_and_the_help_fit_a_terminal() -> None:
    assert fine("--version") == f"regrade {version('regrade')}\n"
    printed = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output
    assert "Score completions with an LLM judge" in printed
    examples = [line.strip() for line in _HELP.partition("\b\n")[2].partition("\n\n")[0].splitlines()]
    assert len(examples) > 5
    assert set(examples) <= {line.strip() for line in printed.splitlines()}


def test_doctor_finds_what_is_unavailable(urls: list[str], fake_engine: FakeEngine) -> None:
    fake_engine.stop()
    result = run("doctor", TASK, *urls)
    assert result.exit_code == 1
    assert "broken" in result.output
    assert "check the judge engine" in result.output
    result = run("doctor", TASK, "--url", "http://127.0.0.1:9", "--meta-url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "start it: make serve, or python -m services.reward" in result.output


def test_the_worker_and_its_traces(urls: list[str]) -> None:
    """Pause, resume and traces; escape sequences of a completion are printed as text."""
    meta = urls[2:]
    fine("score", TASK, "--prompt", PROMPT, "--completion", f"{ESSAY} \x1b[31mred", *urls[:2])
    assert "paused by tester" in fine("pause", TASK, "--reason", "a deadline", *meta)
    assert "a deadline" in fine("status", TASK, *meta)
    assert "paused" not in fine("resume", TASK, *meta)
    assert "no alarm" in fine("alarms", TASK, *meta)
    assert json.loads(fine("cycles", "list", TASK, "--json", *meta)) == []
    assert "no cycle has ended" in fine("cycles", TASK, *meta)
    assert run("cycles", "show", TASK, "none", *meta).exit_code == 1
    page = json.loads(fine("traces", "list", TASK, "--lowest", "0", "--json", *meta))
    name = page["traces"][0]["trace_id"]
    assert name in fine("traces", "list", TASK, *meta)
    output = fine("traces", "show", TASK, name, *meta)
    assert "\\u001b[31mred" in output
    assert "\x1b[31mred" not in output
    assert "quality" in output
    assert json.loads(fine("traces", "list", TASK, "--flag", "instruction", "--json", *meta))["traces"] == []
