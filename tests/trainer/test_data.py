"""Sources on small files in each corpus's own format, column mappings, order, and scopes."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from regrade.tasks import load_pack
from services.trainer.data.__main__ import app
from services.trainer.data.corpora import DataSettings, examples, open_source, training_prompts
from services.trainer.data.mapping import Columns, Example, ExampleReader, MappingError, as_scope
from services.trainer.data.scopes import Clusters
from services.trainer.data.sources import SourceError, read_rows, shuffled
from tests.support.builders import TASK

PACK = load_pack(TASK)
PLAIN = {name: load_pack(name).model_copy(update={"policy_prompt": "{prompt}"}) for name in ("math_reasoning",)}
ANECDOTE = {
    "id": "aQ3", "post_id": "b8d", "action": None, "title": "AITA for leaving early?",
    "text": "I left {before} the cake.",
    "post_type": "HISTORICAL", "label_scores": {"AUTHOR": 3, "OTHER": 1, "EVERYBODY": 0, "NOBODY": 0, "INFO": 0},
    "label": "AUTHOR", "binarized_label_scores": {"RIGHT": 1, "WRONG": 3}, "binarized_label": "WRONG",
}  # fmt: skip
BILL: dict[str, Any] = {
    "bill_id": "113_hr1", "text": "SECTION 1. SHORT TITLE. This Act may be cited as the \"Tree Act\".",
    "summary": "Tree Act - Plants trees.", "title": "To plant trees.", "text_len": 60, "sum_len": 24,
}  # fmt: skip
PROBLEM: dict[str, Any] = {
    "problem": "What is $\\frac{1}{2}+\\frac{1}{2}$?", "level": "Level 1", "type": "Counting & Probability",
    "solution": "It is $\\frac{2}{2}=\\boxed{\\frac{2}{2}}$, that is $\\boxed{1}$.",
}  # fmt: skip


def _jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def _read(corpus: str, path: Path) -> list[Example]:
    rows, columns = open_source(DataSettings(source=corpus, path=str(path)), 0)
    return list(ExampleReader(columns).examples(rows))


def test_writing_prompts(tmp_path: Path) -> None:
    source = tmp_path / "train.wp_source"
    source.write_text("[ WP ] Leonardo DiCaprio in a fit of rage begins to torpedo a ship .\n[ EU ] Short .\n")
    assert _read("writing_prompts", source) == [
        Example("Leonardo DiCaprio in a fit of rage begins to torpedo a ship .")
    ]
    rows = [{"prompt": "[WP] You wake up in a library without books .", "story": "Once"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "hub.parquet")
    hub = _read("writing_prompts", tmp_path / "hub.parquet")
    assert hub == [Example("You wake up in a library without books .")]


def test_billsum(tmp_path: Path) -> None:
    read = _read("billsum", _jsonl(tmp_path / "us_train_data_final_OFFICIAL.jsonl", BILL, BILL | {"summary": ""}))
    assert read == [Example(BILL["text"], BILL["summary"])]


def test_scruples(tmp_path: Path) -> None:
    right = ANECDOTE | {"binarized_label": "RIGHT"}
    read = _read("scruples", _jsonl(tmp_path / "train.scruples-anecdotes.jsonl", ANECDOTE, right))
    assert [example.reference for example in read] == ["wrong", "right"]
    assert read[0].prompt == "AITA for leaving early?\n\nI left {before} the cake."
    with pytest.raises(SourceError, match="path"):
        open_source(DataSettings(source="scruples"), 0)


def test_math(tmp_path: Path) -> None:
    """A folder per subject and a file per problem, as MATH is unpacked; the last box is the answer."""
    folder = tmp_path / "train" / "counting_and_probability"
    folder.mkdir(parents=True)
    (folder / "7.json").write_text(json.dumps(PROBLEM, indent=1))
    read = _read("math", tmp_path)
    assert read == [Example(PROBLEM["problem"], "1", "counting_and_probability")]
    assert read[0].scope in load_pack("math_reasoning").scopes


def test_generated_problems_are_seeded_and_endless() -> None:
    settings = DataSettings(source="reasoning-gym:gsm_symbolic", limit=3)
    first = examples(settings, PLAIN["math_reasoning"], 5)
    assert first == examples(settings, PLAIN["math_reasoning"], 5) != examples(settings, PLAIN["math_reasoning"], 6)
    assert len(first) == 3
    assert all(example.reference for example in first)
    held_out = examples(settings.model_copy(update={"skip": 3}), PLAIN["math_reasoning"], 5)
    assert not {e.prompt for e in first} & {e.prompt for e in held_out}
    with pytest.raises(SourceError, match="no_such"):
        examples(DataSettings(source="reasoning-gym:no_such"), PACK, 0)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_file_format_by_a_mapping(tmp_path: Path, suffix: str) -> None:
    rows = [{"q": f"Question {n}?", "a": str(n), "topic": "Odd One" if n % 2 else "even"} for n in range(6)]
    path = tmp_path / f"mine.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        _jsonl(path, *rows)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        joint = "," if suffix == "csv" else "\t"
        path.write_text("\n".join(joint.join(row) for row in ([*rows[0]], *([*r.values()] for r in rows))))
    columns = Columns(prompt="Answer: {q}", reference="a", scope="topic", where={"topic": "Odd One"})
    read = list(ExampleReader(columns).examples(read_rows(str(path))))
    assert read == [Example(f"Answer: Question {n}?", str(n), "odd_one") for n in (1, 3, 5)]


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    """The second line is broken, which raises only when it is read."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n{broken\n')
    rows = read_rows(str(path))
    assert next(rows) == {"prompt": "a"}
    with pytest.raises(SourceError, match=r"rows\.jsonl, line 2"):
        next(rows)


def test_skipped_rows_are_counted_by_reason() -> None:
    reader = ExampleReader(
        Columns(prompt="p", reference="r", values={"y": "yes"}, where={"k": "1"}, min_chars=2, max_chars=4)
    )
    rows: list[dict[str, Any]] = [
        {"p": "good", "r": "y", "k": 1}, {"p": "good", "r": "y", "k": 2}, {"p": "g", "r": "y", "k": 1},
        {"p": "goods", "r": "y", "k": 1}, {"p": "good", "r": None, "k": 1}, {"p": "good", "r": "n", "k": 1},
    ]  # fmt: skip
    assert list(reader.examples(rows)) == [Example("good", "yes")]
    assert list(reader.skipped.values()) == [1, 1, 1, 1, 1]
    with pytest.raises(MappingError, match="no column 'p'"):
        list(ExampleReader(Columns(prompt="p")).examples([{"q": "x"}]))


def test_a_value_with_a_slot_is_not_filled_again() -> None:
    read = next(ExampleReader(Columns(prompt="{a.b} {c}")).examples([{"a": {"b": "{c}"}, "c": "sea"}]))
    assert read.prompt == "{c} sea"


def test_the_order_is_seeded_and_complete() -> None:
    def numbers() -> Iterator[int]:
        return iter(range(100))

    first = list(shuffled(numbers(), 1, 10))
    assert first == list(shuffled(numbers(), 1, 10)) != list(shuffled(numbers(), 2, 10))
    assert sorted(first) == list(range(100)) != first
    assert max(list(islice(shuffled(numbers(), 1, 10), 5))) < 15, "a stream is not read to its end first"


def test_samples_of_the_pack_come_in_a_seeded_order() -> None:
    first = training_prompts(examples(DataSettings(), PACK, 0))["prompt"][:3]
    assert first == training_prompts(examples(DataSettings(), PACK, 0))["prompt"][:3]
    assert first != training_prompts(examples(DataSettings(), PACK, 1))["prompt"][:3]
    assert first[0][0]["role"] == "user"
    math = examples(DataSettings(), load_pack("math_reasoning"), 0)
    assert set(training_prompts(math)["scope"]) <= set(load_pack("math_reasoning").scopes)
    assert set(training_prompts(math, scopes=False)["scope"]) == {None}
    with pytest.raises(SourceError, match="no example"):
        examples(DataSettings(skip=10_000), PACK, 0)


def test_prompts_of_a_dataset_are_put_into_the_tasks_template(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "rows.jsonl", {"prompt": "Why {prompt}?"})
    read = examples(DataSettings(source=str(path)), load_pack("summarization"), 0)
    assert read[0].prompt.startswith("Summarize the following bill")
    assert read[0].prompt.endswith("Why {prompt}?")


@pytest.mark.parametrize("source", ["./nowhere.jsonl", "/nowhere", "nowhere.csv"])
def test_a_missing_file_is_no_dataset_of_the_hub(source: str) -> None:
    with pytest.raises(SourceError, match="no file"):
        read_rows(source)


def test_clusters_separate_similar_prompts_and_survive_a_file(tmp_path: Path) -> None:
    trains = [Example(f"A train leaves the station at {n} and travels along the railway.", scope="m") for n in range(8)]
    dice = [Example(f"What is the probability that {n} dice show the same number?", scope="m") for n in range(8)]
    bread = [Example(f"The baker sells {n} rolls and two loaves of bread.", scope="m") for n in range(8)]
    everything = [*trains, *dice, *bread]
    clusters = Clusters.fit(everything, 3, seed=0)
    scopes = [clusters.assign(example).scope for example in everything]
    assert clusters.scopes == ["m/c0", "m/c1", "m/c2"]
    assert [len(set(scopes[n : n + 8])) for n in (0, 8, 16)] == [1, 1, 1]
    assert len(set(scopes)) == 3
    clusters.save(tmp_path / "clusters.json")
    loaded = Clusters.load(tmp_path / "clusters.json")
    assert [loaded.assign(example).scope for example in everything] == scopes
    assert loaded.assign(Example("x", scope="other")).scope == "other", "a label that was not fitted is kept"
    assert Clusters.fit([Example("one prompt alone")], 3, seed=0).scopes == ["c0"]


def test_labels_become_scopes() -> None:
    assert as_scope("Counting & Probability") == "counting_and_probability"
    assert as_scope("  ") is None


def test_the_preview_command_shows_a_mapping(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "mine.jsonl", {"q": "Why?", "a": "so"}, {"q": "", "a": "x"})
    result = CliRunner().invoke(app, ["preview", str(path), "--prompt", "q", "--reference", "a"])
    assert result.exit_code == 0, result.output
    assert "Why?" in result.output
    assert "skipped, too short: 1" in result.output
    settings = json.loads(result.output.partition("data: ")[2])
    assert DataSettings.model_validate(settings).columns == Columns(prompt="q", reference="a")
    assert CliRunner().invoke(app, ["preview", str(path), "--prompt", "p"]).exit_code == 1


def test_the_fit_command_writes_clusters(tmp_path: Path) -> None:
    out = tmp_path / "clusters.json"
    result = CliRunner().invoke(
        app, ["scopes", "fit", "math_reasoning", "samples", "--out", str(out), "--clusters", "2"]
    )
    assert result.exit_code == 0, result.output
    assert "algebra/c1" in result.output
    clustered = examples(DataSettings(clusters=str(out)), load_pack("math_reasoning"), 0)
    assert all(example.scope and "/c" in example.scope for example in clustered)


@pytest.mark.parametrize("rows", ["", '{"prompt": ""}\n'])
def test_a_preview_without_examples_is_an_error(rows: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(rows)
    result = CliRunner().invoke(app, ["preview", str(tmp_path / "mine.jsonl")])
    assert result.exit_code == 1, result.output
    assert "no example" in result.output


@pytest.mark.parametrize("task", ["math_reasoning", "essay_writing"])
def test_the_samples_of_a_task_are_previewed_without_the_hub(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.trainer.data.sources._hub", lambda *_: pytest.fail("asks the hub"))
    result = CliRunner().invoke(app, ["preview", "samples", "--task", task])
    assert result.exit_code == 0, result.output
    count = len(load_pack(task).prompts)
    assert f"{count} examples of the first {count} rows" in result.output
    no_task = CliRunner().invoke(app, ["preview", "samples"])
    assert (no_task.exit_code, "--task" in no_task.output) == (1, True)
    unknown = CliRunner().invoke(app, ["preview", "samples", "--task", "none"])
    assert (unknown.exit_code, "no task pack 'none'" in unknown.output) == (1, True)
