"""The packs of this package and a user's own: search, reading, validation."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regrade import RewardClient
from regrade.cli.main import app
from regrade.contracts import Mode
from regrade.tasks import BrokenTaskError, UnknownTaskError, available_tasks, judge_mode, judge_role, load_pack
from regrade.tasks.anchors import TRANSFORMS, build_anchors
from regrade.tasks.pack import TASKS_DIR, for_policy, read_pack
from regrade.tasks.scaffold import new_pack
from regrade.tasks.validate import MIN_ORIGINALS, findings
from services.kit.checks.base import CheckInput
from services.kit.checks.registry import evaluate_check
from services.kit.checks.workers import CheckWorkers
from services.kit.text.math_equal import math_equal
from services.kit.text.segments import ends_properly, sentence_count, words
from tests.conftest import StartReward
from tests.support.builders import TASK
from tests.support.fake_engine import FakeEngine

SHIPPED = ("essay_writing", "ethical_reasoning", "math_reasoning", "summarization")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's own packs, with one called `haiku`."""
    monkeypatch.setenv(TASKS_DIR, str(tmp_path))
    new_pack(tmp_path, "haiku", kind="breadth", evaluator="judge")
    return tmp_path


def _rewrite(path: Path, change: Any) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(change(line))}\n" for line in lines))


@pytest.mark.parametrize("task", SHIPPED)
def test_a_shipped_pack_holds_together(task: str) -> None:
    pack = load_pack(task)
    assert [finding for finding in findings(pack) if finding.fatal] == []
    assert {"one_line", "hand_written"} <= set(pack.rubrics)
    assert pack.starting_rubric == pack.rubrics["one_line"]
    assert len(build_anchors(pack, 24).originals) >= 12, "what the demo's gate measures on"
    assert not {p.prompt for p in pack.prompts} & {o.prompt for o in pack.originals}
    assert not any("essay" in attack.template for attack in pack.attacks) or task == "essay_writing"


@pytest.mark.parametrize("task", SHIPPED)
async def test_trusted_originals_satisfy_the_hand_written_checks(task: str) -> None:
    """An original that fails the checks of a careful rubric is not one to trust."""
    pack = load_pack(task)
    pool = CheckWorkers(timeout_s=60.0, workers=1)
    try:
        for original in pack.originals:
            subject = CheckInput(original.prompt, original.completion, original.reference)
            for criterion in pack.rubrics["hand_written"].check_criteria:
                assert await evaluate_check(criterion.check, subject, pool.share()) >= 0.9, (original.id, criterion.id)
    finally:
        pool.close()


async def test_damage_loses_the_answer() -> None:
    """The answer to another prompt is wrong here, so `math_equal` orders that pair."""
    anchors = build_anchors(load_pack("math_reasoning"), 24)
    wrong = next(case for case in anchors.damaged if case.kind == "other_prompt")
    assert wrong.item(0).reference == anchors.originals[wrong.original].reference is not None
    pool = CheckWorkers(timeout_s=60.0, workers=1)
    try:
        assert not await pool.share().run(math_equal, wrong.completion, wrong.reference or "")
    finally:
        pool.close()


def test_a_users_own_pack_is_found_by_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"haiku", *SHIPPED} == set(available_tasks())
    assert judge_role("haiku") == "an expert for haiku"
    assert judge_mode("haiku") is Mode.EXPECTED
    assert judge_mode("math_reasoning") is Mode.PLANNED
    other = folder / "other"
    new_pack(other, TASK, kind="breadth", evaluator="judge")
    monkeypatch.setenv(TASKS_DIR, os.pathsep.join((str(other), str(folder))))
    assert load_pack(TASK).judge_role == f"an expert for {TASK}", (
        "the first folder named has a name that is there twice"
    )
    monkeypatch.delenv(TASKS_DIR)
    assert load_pack(TASK).judge_role == "an experienced English instructor"
    with pytest.raises(UnknownTaskError, match="essay_writing"):
        load_pack("haiku")


async def test_the_service_judges_a_users_own_task(
    folder: Path, start_reward: StartReward, fake_engine: FakeEngine
) -> None:
    settings = folder / "haiku" / "task.toml"
    settings.write_text(settings.read_text().replace('mode = "expected"', 'mode = "planned"'))
    async with RewardClient(start_reward(bootstrap_tasks=["haiku"]).url) as client:
        answer = await client.score("haiku", [{"prompt": "Frogs.", "completion": "An old silent pond, a frog."}])
    assert answer.results[0].reward is not None
    assert answer.usage.judge_calls == 3, "plan, execution, level"
    assert "an expert for haiku" in fake_engine.calls[0][0]["content"]


@pytest.mark.parametrize("kind", ["breadth", "depth"])
@pytest.mark.parametrize("evaluator", ["judge", "rouge", "verdict", "math"])
def test_every_skeleton_can_be_trained_on(tmp_path: Path, kind: Any, evaluator: Any) -> None:
    place = new_pack(tmp_path, "mine", kind=kind, evaluator=evaluator)
    pack = read_pack(place)
    assert (pack.kind, pack.evaluator) == (kind, evaluator)
    result = CliRunner().invoke(app, ["tasks", "validate", str(place)])
    assert result.exit_code == 0, result.output
    assert "warning: anchors.jsonl: 24 of 24 lines are still the examples of a new pack: a1, a2" in result.stdout
    assert result.stdout.endswith("mine is valid: 4 prompts, 24 trusted originals\n")
    assert [finding for finding in findings(pack) if finding.fatal] == []
    assert len(build_anchors(pack, 24).originals) >= MIN_ORIGINALS
    with pytest.raises(FileExistsError):
        new_pack(tmp_path, "mine", kind=kind, evaluator=evaluator)


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("task.toml", 'language = "en"', 'language = "English"', "language"),
        ("task.toml", 'starting_rubric = "one_line"', 'starting_rubric = "two_lines"', "two_lines"),
        ("task.toml", 'policy_prompt = "{prompt}"', 'policy_prompt = "Write."', "policy_prompt"),
        ("task.toml", 'evaluator = "judge"', 'evaluator = "verdict"', "verdicts"),
        ("task.toml", "scopes = []", 'scopes = ["a", "a"]', "scope"),
        ("task.toml", "judge_role", "judge_rule", "judge_rule"),
        ("task.toml", "kind =", "kind ", "task.toml"),
        ("rubrics/one_line.json", '"quality"', '"no such id"', "one_line.json"),
        ("prompts.jsonl", "{", "", "prompts.jsonl"),
        ("anchors.jsonl", '"completion"', '"complete"', "completion"),
    ],
)
def test_a_broken_file_is_named(folder: Path, file: str, before: str, after: str, message: str) -> None:
    path = folder / "haiku" / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(BrokenTaskError, match=message) as raised:
        read_pack(folder / "haiku")
    assert "\n" not in str(raised.value)
    assert "errors.pydantic.dev" not in str(raised.value)
    listed = CliRunner().invoke(app, ["tasks", "list"], env={TASKS_DIR: str(folder)})
    assert listed.exit_code == 0
    assert str(raised.value) in listed.stderr
    assert max(map(len, listed.stdout.splitlines())) < 100


def test_findings_say_what_to_fix(folder: Path) -> None:
    place = new_pack(folder, "sums", kind="depth", evaluator="math")
    _rewrite(place / "prompts.jsonl", lambda entry: entry | {"id": "p", "reference": None, "scope": "general"})
    _rewrite(place / "anchors.jsonl", lambda entry: entry | {"scope": "elsewhere"})
    errors = " ".join(finding.text for finding in findings(read_pack(place)) if finding.fatal)
    assert "repeated ids: p" in errors
    assert "without a reference" in errors
    assert "elsewhere" in errors
    votes = new_pack(folder, "votes", kind="breadth", evaluator="verdict")
    _rewrite(votes / "prompts.jsonl", lambda entry: entry | {"reference": "maybe"})
    assert any("no verdict" in finding.text for finding in findings(read_pack(votes)))
    (votes / "prompts.jsonl").write_text("")
    assert any("add prompts to train on" in finding.text for finding in findings(read_pack(votes)))


@pytest.mark.parametrize("count", [1, 2, 6])
def test_few_originals_give_advice(folder: Path, count: int) -> None:
    path = folder / "haiku" / "anchors.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:count]))
    problems = findings(read_pack(folder / "haiku"))
    assert any("will not evolve" in finding.text and not finding.fatal for finding in problems)


def test_a_prompts_braces_are_text() -> None:
    assert for_policy("Do {prompt}!", "{prompt} {x}") == "Do {prompt} {x}!"


def test_the_command_creates_validates_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TASKS_DIR, str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner()
    made = run.invoke(app, ["tasks", "new", "limerick", "--in", str(tmp_path), "--evaluator", "rouge"])
    assert made.exit_code == 0, made.output
    assert run.invoke(app, ["tasks", "new", "limerick", "--in", str(tmp_path)]).exit_code == 1
    assert run.invoke(app, ["tasks", "new", "no name", "--in", str(tmp_path)]).exit_code == 1
    assert "is valid" in run.invoke(app, ["tasks", "validate", "limerick"]).output
    assert "is valid" in run.invoke(app, ["tasks", "validate", str(tmp_path / "limerick")]).output
    (tmp_path / "limerick" / "prompts.jsonl").write_text("")
    broken = run.invoke(app, ["tasks", "validate", str(tmp_path / "limerick")])
    assert broken.exit_code == 1
    assert "prompts.jsonl is empty" in broken.output
    assert run.invoke(app, ["tasks", "validate", "nowhere"]).exit_code == 1
    new_pack(tmp_path, "ruined", kind="breadth", evaluator="judge")
    (tmp_path / "ruined" / "task.toml").write_text("kind = 1")
    listed = run.invoke(app, ["tasks", "list"])
    assert "broken" in listed.output
    assert all(task in listed.output for task in SHIPPED)


@pytest.mark.parametrize("name", [".", "..", "../x", "a/b", "no name", "", "x" * 65])
def test_a_name_that_is_no_folder_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "packs").mkdir()
    result = CliRunner().invoke(app, ["tasks", "new", name, "--in", str(tmp_path / "packs")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert repr(name) in result.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "packs"]


def test_a_pack_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for _ in range(2):
        result = CliRunner().invoke(app, ["tasks", "new", "taken", "--in", str(tmp_path)])
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert f"{tmp_path / 'taken'} exists" in result.stderr
    assert list((tmp_path / "taken").iterdir()) == []


def test_a_new_pack_is_validated_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TASKS_DIR, raising=False)
    assert CliRunner().invoke(app, ["tasks", "new", "limerick"]).exit_code == 0
    assert "limerick is valid" in CliRunner().invoke(app, ["tasks", "validate", "limerick"]).stdout
    (tmp_path / "empty").mkdir()
    for name, message in (("limmerick", "no task pack 'limmerick'"), ("empty", "task.toml"), ("tasks", "task.toml")):
        result = CliRunner().invoke(app, ["tasks", "validate", name])
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert message in result.stderr


def test_essay_pack() -> None:
    pack = load_pack(TASK)
    assert TASK in available_tasks()
    assert len(pack.originals) >= 30
    assert len({o.id for o in pack.originals}) == len(pack.originals)
    assert all(ends_properly(o.completion) and sentence_count(o.completion) >= 3 for o in pack.originals)
    assert not {p.prompt for p in pack.prompts} & {o.prompt for o in pack.originals}
    assert judge_role("no_such_task") != judge_role(TASK)
    with pytest.raises(UnknownTaskError, match="essay_writing"):
        load_pack("no_such_task")


def test_anchors_are_fixed_damaged_and_out_of_the_proposers_sight() -> None:
    pack = load_pack(TASK)
    anchors = build_anchors(pack, 24)
    assert anchors == build_anchors(pack, 24)
    hidden = {case.completion for case in anchors.originals}
    assert len(hidden) >= 15
    assert not hidden & {original.completion for original in anchors.visible}
    assert {case.kind for case in anchors.damaged} == set(TRANSFORMS)
    for case in anchors.damaged:
        original = anchors.originals[case.original].completion
        assert case.completion != original
        if case.kind == "shuffled":
            assert sorted(words(case.completion)) == sorted(words(original))
        if case.kind == "cut_off":
            assert not ends_properly(case.completion)
    braces = next(attack for attack in pack.attacks if "{" in attack.template)
    assert braces.template in braces.applied_to("An honest {essay}.")
