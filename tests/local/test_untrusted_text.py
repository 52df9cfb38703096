"""Text by models and operators reaches the report and the live view as text, never as HTML, template or markup."""

import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from regrade.contracts import Alarm, CycleReport, CycleStatus, EventKind, Evidence, LineageEvent, Stage
from services.local.observer import Snapshot
from services.local.report import Run, activated_gates, figures, write_report
from services.local.view import View
from services.meta_reward.api.rubric_diff import diff_rubrics
from tests.support.builders import gate_report, llm, rubric

HOSTILE = "<script>alert(1)</script> {{ 7*7 }} {% for x in y %} [/INST] [bold red]"
BEFORE = rubric(version=1)
AFTER = rubric(llm(name="better", description=HOSTILE), preamble=HOSTILE, rationale=HOSTILE, version=2)
STEP = {"step": 1.0, "reward": 0.3, "started": 1.0, "ended": 2.5, "completion_tokens": 8.0, "regrade/rubric_version": 1}
EVIDENCE = Evidence(
    window=("0-0", "9-0"), traces=8, groups=2, first_step=0, last_step=1, means={}, drift={}, correlation={},
    reward_mean=0.5, reward_std=0.1, saturated_share=0.0, zero_variance_groups=0.0, flagged_share=0.0,
    alarms=(Alarm(name=HOSTILE, figure=0.4, threshold=0.3, lowered_at=0.2, since="9-0", traces=(HOSTILE,)),),
)  # fmt: skip
CYCLE = CycleReport(
    cycle="c-1", trigger=HOSTILE, started=1.2, finished=2.0, evidence=EVIDENCE, candidates=1, activated=AFTER.digest,
    notes=(HOSTILE,),
)  # fmt: skip


def _event(kind: EventKind, digest: str, **fields: object) -> LineageEvent:
    base = {"id": "1-0", "time": 1.0, "kind": kind, "digest": digest, "by": HOSTILE, "reason": HOSTILE}
    return LineageEvent.model_validate(base | fields)


LINEAGE = [
    _event(EventKind.REJECTED, "0" * 64),
    _event(EventKind.GATED, AFTER.digest, gate=gate_report(AFTER.digest, BEFORE.digest)),
    _event(EventKind.ACTIVATED, AFTER.digest, version=2, previous=BEFORE.digest),
]
RUN = Run(
    name=HOSTILE,
    task="essay_writing",
    judge_model=HOSTILE,
    steps=[STEP],
    cycles=[CYCLE],
    lineage=LINEAGE,
    diffs=[diff_rubrics(BEFORE, AFTER)],
)


class _Page(HTMLParser):
    """The tags of a page, the addresses they load or link, and the text a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        attributes = ("src", "href", "xlink:href", "data", "action", "srcset")
        self.addresses += [value or "" for name, value in attrs if name in attributes or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_shows_untrusted_text_and_runs_none_of_it(tmp_path: Path) -> None:
    page = _Page()
    html = write_report(RUN, tmp_path).read_text()
    page.feed(html)
    assert "script" not in page.tags
    assert {address[:1] for address in page.addresses} <= {"#"}, "the page loads nothing and links to itself alone"
    assert "url(http" not in html
    assert "@import" not in html
    # name (title and heading), judge model, by and reason of three events, rationale, preamble and
    # description in the diff, trigger, alarm, note
    assert page.text.count(HOSTILE) == 2 + 1 + 6 + 1 + 2 + 3
    assert not re.search(r"\b49\b", page.text.replace(HOSTILE, ""))


@pytest.mark.parametrize("terminal", [False, True])
def test_view_shows_markup_as_text(terminal: bool) -> None:
    out = StringIO()
    status = CycleStatus(cycle="c-1", stage=Stage.GATE, detail=HOSTILE, started=1.0)
    console = Console(file=out, force_terminal=terminal, width=250, color_system=None)
    with View(console, 10, 36) as view:
        view.update(Snapshot([STEP], status, LINEAGE))
    output = out.getvalue()
    assert output.count("[/INST] [bold red]") >= 4
    assert "step 1/10" in output


def test_activated_gates_are_those_of_candidates_that_became_active() -> None:
    """Neither a gated candidate that was not activated, nor an override; a rollback adds no second gate."""
    override = _event(EventKind.ACTIVATED, BEFORE.digest, version=1)
    lost = _event(EventKind.GATED, "1" * 64, gate=gate_report("1" * 64, BEFORE.digest))
    back = _event(EventKind.ROLLED_BACK, BEFORE.digest, version=1, previous=AFTER.digest)
    gates = activated_gates([override, lost, *LINEAGE, back])
    assert [(label, gate.candidate.digest) for label, gate in gates] == [("version 2", AFTER.digest)]
    assert figures(RUN._replace(lineage=[override, lost, back]))["anchor_order_after"] is None
