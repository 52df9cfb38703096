"""The report's figures and page, and the live view, from constructed runs."""

import json
import re
from io import StringIO
from pathlib import Path

from rich.console import Console

from regrade.contracts import Alarm, CycleReport, CycleStatus, EventKind, Evidence, LineageEvent, Stage
from services.local.observer import Snapshot
from services.local.report import Run, busy_steps, figures, write_report
from services.local.view import View
from services.meta_reward.api.rubric_diff import diff_rubrics
from services.trainer.records import read_log
from tests.support.builders import gate_report, llm, min_words, rubric

BEFORE = rubric(llm("quality", description="<script>alert(1)</script> {{ 7 * 7 }}"), version=1)
AFTER = rubric(*BEFORE.criteria, min_words(50), version=2)
EVIDENCE = Evidence(
    window=("0-0", "9-0"),
    traces=36,
    groups=6,
    first_step=0,
    last_step=5,
    means={},
    drift={},
    correlation={},
    reward_mean=0.5,
    reward_std=0.1,
    saturated_share=0.0,
    zero_variance_groups=0.0,
    flagged_share=0.0,
    alarms=(Alarm(name="words_fell", figure=0.4, threshold=0.3, lowered_at=0.2, since="9-0", traces=("t-1",)),),
)


def _step(number: int, version: int) -> dict[str, float]:
    scores = {"regrade/criterion/quality": 0.4} | ({"regrade/criterion/min_words": 0.6} if version > 1 else {})
    times = {"started": number * 10.0, "ended": number * 10.0 + 9.0}
    base = {"step": float(number), "reward": 0.3 + number / 100, "reward_std": 0.05, "completion_tokens": 60.0}
    return base | times | scores | {"regrade/rubric_version": float(version)}


def _event(kind: EventKind, digest: str, version: int | None = None, **fields: object) -> LineageEvent:
    base = {"id": "1-0", "time": 1.0, "kind": kind, "digest": digest, "version": version, "by": "gate"}
    return LineageEvent.model_validate(base | fields)


RUN = Run(
    name="test",
    task="essay_writing",
    judge_model="fake",
    steps=[_step(n, 1 if n < 6 else 2) for n in range(1, 11)],
    cycles=[
        CycleReport(
            cycle="c-1", trigger="36 new traces", started=45.0, finished=61.0, evidence=EVIDENCE, candidates=2,
            activated=AFTER.digest, notes=("paper: analyse dropped (<b>odd</b>)",),
        )
    ],
    lineage=[
        _event(EventKind.ACTIVATED, BEFORE.digest, 1, reason="starting rubric"),
        _event(EventKind.PROPOSED, AFTER.digest),
        _event(EventKind.GATED, AFTER.digest, gate=gate_report(AFTER.digest, BEFORE.digest)),
        _event(EventKind.REJECTED, "0" * 64, reason="leak: quotes <img src=x onerror=alert(1)>"),
        _event(EventKind.ACTIVATED, AFTER.digest, 2, previous=BEFORE.digest, reason="passed the gate"),
    ],
    diffs=[diff_rubrics(BEFORE, AFTER)],
)  # fmt: skip


def test_figures() -> None:
    numbers = figures(RUN)
    assert (numbers["steps"], numbers["cycles"], numbers["activations_through_gate"], numbers["rejected"]) == (
        10,
        1,
        1,
        1,
    )
    assert numbers["steps_by_version"] == {"1": 5, "2": 5}
    assert [n for n, busy in enumerate(busy_steps(RUN.steps, RUN.cycles), 1) if busy] == [4, 5, 6]
    assert numbers["steps_finished_during_a_cycle"] == 3
    assert numbers["step_seconds_without_cycle"] == {"min": 9.0, "median": 9.0, "max": 9.0}
    empty = figures(RUN._replace(steps=[], cycles=[], lineage=[]))
    assert empty["reward_last_steps"] is None


def test_report_is_one_page_and_escapes_all_text(tmp_path: Path) -> None:
    page = write_report(RUN, tmp_path).read_text()
    assert page.count("<svg") == 4
    assert not re.search(r'(?:src|href)="https?:', page)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }}" in page
    assert "<img src=x" not in page
    assert "<b>odd</b>" not in page
    assert "min_words(words=50)" in page
    assert json.loads((tmp_path / "figures.json").read_text())["run"] == "test"
    assert write_report(RUN._replace(steps=[], cycles=[], lineage=[], diffs=[]), tmp_path).is_file()


def _snapshots() -> list[Snapshot]:
    gating = CycleStatus(cycle="c-1", stage=Stage.GATE, detail="2 candidates", started=1.0)
    return [
        Snapshot([], CycleStatus(), list(RUN.lineage[:1])),
        Snapshot(list(RUN.steps[:2]), gating, list(RUN.lineage[:3])),
        Snapshot(list(RUN.steps), CycleStatus(completed=1, lag=4), list(RUN.lineage)),
    ]


def test_view_without_a_terminal_prints_each_event_once() -> None:
    out = StringIO()
    with View(Console(file=out, width=200), 10, 36) as view:
        for snapshot in _snapshots() + _snapshots()[-1:]:
            view.update(snapshot)
    lines = out.getvalue().splitlines()
    assert sum(line.startswith("step ") for line in lines) == 10
    assert sum("gate, 2 candidates" in line for line in lines) == 1
    assert sum("activated" in line for line in lines) == 2


def test_view_on_a_terminal_is_a_panel() -> None:
    out = StringIO()
    with View(Console(file=out, force_terminal=True, width=150), 10, 36) as view:
        for snapshot in _snapshots():
            view.update(snapshot)
    text = out.getvalue()
    assert "Regrade" in text
    assert "version 2" in text
    assert "step 10/10" in text
    assert "1 done; the next begins at 36 new traces (4 so far)" in text


def test_training_log_takes_the_later_line_of_a_step(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_text('{"step": 2, "reward": 0.2}\n{"step": 1, "reward": 0.1}\n{"step": 2, "reward": 0.3}\n')
    assert read_log(path) == [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.3}]
