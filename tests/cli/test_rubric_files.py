"""A rubric that was printed, edited and put back: as a file and in an editor, against a real service."""

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from regrade.cli.main import app
from regrade.contracts import Rubric
from tests.support.builders import TASK

WHY = ["--reason", "our house style"]


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, ["rubric", *arguments], env={"REGRADE_KEY": "", "USER": "tester"} | env)


def active(url: str, *options: str) -> Rubric:
    result = run("show", TASK, *options, "--url", url)
    assert result.exit_code == 0, result.output
    return Rubric.model_validate_json(result.stdout)


@pytest.fixture
def printed(reward_url: str, tmp_path: Path) -> Path:
    """A file as `regrade rubric show TASK > file` leaves it."""
    path = tmp_path / "mine.json"
    path.write_text(run("show", TASK, "--url", reward_url).stdout)
    return path


def test_an_edited_rubric_is_put_with_a_notice(reward_url: str, printed: Path) -> None:
    before = active(reward_url)
    text = printed.read_text()
    printed.write_text(text.replace(before.criteria[0].name, "House style"))
    result = run("put", TASK, str(printed), *WHY, "--url", reward_url)
    assert result.exit_code == 0, result.output
    assert "version 2 is active" in result.stdout
    assert re.search(
        rf"note: .*mine\.json was edited: its digest, version, created_by \({before.digest[:8]}\)", result.stderr
    )
    after = active(reward_url)
    assert (after.criteria[0].name, after.version, after.parent, after.created_by) == (
        "House style",
        2,
        before.digest,
        "tester",
    )
    printed.write_text(run("show", TASK, "--url", reward_url).stdout)
    again = run("put", TASK, str(printed), *WHY, "--url", reward_url)
    assert (again.exit_code, again.stderr) == (0, ""), "not edited: put as it is, without a notice"
    assert active(reward_url).version == 2


def test_a_rubric_of_an_earlier_version_is_put_back(reward_url: str, printed: Path) -> None:
    before = active(reward_url)
    own = json.loads(printed.read_text()) | {"preamble": "Be strict."}
    own = {name: own[name] for name in ("preamble", "criteria")}
    path = printed.with_name("own.json")
    path.write_text("\ufeff" + json.dumps(own), encoding="utf-8")
    assert "version 2 is active" in run("put", TASK, str(path), *WHY, "--url", reward_url).stdout
    assert "version 1 is active" in run("put", TASK, str(printed), *WHY, "--url", reward_url).stdout
    assert active(reward_url).digest == before.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.json is empty"),
        ("{", "mine.json: not JSON"),
        ("[]", "mine.json: "),
        ('{"digest": "x", "criteria": []}', "mine.json: criteria"),
        ('{"criteria": [{"kind": "llm", "id": "a b"}]}', "mine.json: criteria.0"),
    ],
)
def test_a_file_that_holds_no_rubric(reward_url: str, printed: Path, text: str, message: str) -> None:
    printed.write_text(text)
    result = run("put", TASK, str(printed), *WHY, "--url", reward_url)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr
    assert active(reward_url).version == 1


def _editor(folder: Path, code: str) -> str:
    """An editor that runs Python `code` on `text`, the content of the file."""
    script = folder / "editor.py"
    script.write_text(f"import pathlib, sys\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text()\n{code}\n")
    return f"{sys.executable} {script}"


def test_edit_activates_what_is_saved(reward_url: str, tmp_path: Path) -> None:
    before = active(reward_url)
    editor = _editor(tmp_path, f"path.write_text(text.replace({before.criteria[0].name!r}, 'House style'))")
    result = run("edit", TASK, *WHY, "--url", reward_url, EDITOR=editor, VISUAL="")
    assert result.exit_code == 0, result.output
    assert "version 2 is active" in result.stdout
    after = active(reward_url)
    assert (after.criteria[0].name, after.parent, after.created_by) == ("House style", before.digest, "tester")


def test_edit_without_a_change(reward_url: str, tmp_path: Path) -> None:
    result = run("edit", TASK, *WHY, "--url", reward_url, EDITOR="", VISUAL=_editor(tmp_path, "pass"))
    assert (result.exit_code, result.stdout) == (0, "nothing changed\n")
    assert active(reward_url).version == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("path.write_text('{')", "not JSON"),
        ("path.write_text(text.replace('quality', 'no such id'))", "criteria.0"),
        ("path.write_text(text + ' '); sys.exit(3)", "ended with status 3"),
    ],
)
def test_edit_keeps_a_text_that_is_no_rubric(reward_url: str, tmp_path: Path, code: str, message: str) -> None:
    result = run("edit", TASK, *WHY, "--url", reward_url, VISUAL=_editor(tmp_path, code))
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    draft = re.search(r"/\S*regrade-rubric-[^\s:.]+\.json", result.stderr)
    assert draft is not None, result.stderr
    assert Path(draft[0]).read_text()
    Path(draft[0]).unlink()
    assert active(reward_url).version == 1


def test_edit_without_an_editor(reward_url: str) -> None:
    result = run("edit", TASK, *WHY, "--url", reward_url, VISUAL="no-such-editor")
    assert result.exit_code == 1
    assert "'no-such-editor' does not start" in result.stderr
    assert "set EDITOR" in result.stderr


def test_edit_loses_nothing_to_another_activation(reward_url: str, tmp_path: Path, printed: Path) -> None:
    """Another rubric becomes active while the editor is open."""
    printed.write_text(printed.read_text().replace("Overall", "Total"))
    put = [sys.executable, "-m", "regrade", "rubric", "put", TASK, str(printed), *WHY, "--url", reward_url]
    code = f"import subprocess\nsubprocess.run({put!r}, check=True)\npath.write_text(text.replace('Overall', 'Whole'))"
    result = run("edit", TASK, *WHY, "--url", reward_url, VISUAL=_editor(tmp_path, code))
    assert result.exit_code == 1
    assert "another rubric is active" in result.stderr
    draft = re.search(r"your text is in (\S+)", result.stderr)
    assert draft is not None
    assert "Whole" in Path(draft[1]).read_text()
    Path(draft[1]).unlink()
