"""Checks whether a readable task pack can be used for training, and which gains its gate can detect. Pure."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from regrade.contracts.checks import VerdictEqual
from regrade.tasks.anchors import build_anchors
from regrade.tasks.pack import TaskPack
from regrade.tasks.scaffold import is_example_text

MIN_ORIGINALS = 8
"""The gate refuses to decide on fewer held-out originals: a bootstrap of fewer says nothing at any error level."""
ENOUGH_ORIGINALS = 40
"""With fewer originals in the pack, the gate detects only large gains."""
_ALL_ORIGINALS = 10_000
_MIN_WORDS, _MIN_CHARS = 8, 40
"""An original with less of both leaves the transforms little to damage; not every script has blanks between words."""
_NEEDS_REFERENCE = {"rouge", "verdict", "math"}
_LISTED_IDS = 5


class Finding(NamedTuple):
    """A problem: `fatal` if the pack cannot be used for training, else advice."""

    fatal: bool
    text: str


def findings(pack: TaskPack) -> list[Finding]:
    """All problems of a pack, fatal ones first."""
    problems = [*_lists(pack), *_references(pack), *_scopes(pack), *_labels(pack)]
    if not any(problem.fatal for problem in problems):
        problems.extend(_gate(pack))
    return sorted(problems, key=lambda problem: not problem.fatal)


def _lists(pack: TaskPack) -> Iterator[Finding]:
    if not pack.prompts:
        yield Finding(True, "prompts.jsonl is empty: add prompts to train on")
    if not pack.originals:
        yield Finding(True, "anchors.jsonl is empty: add trusted originals for the gate")
    for name, entries in (("prompts", pack.prompts), ("anchors", pack.originals), ("attacks", pack.attacks)):
        repeated = [entry for entry, count in Counter(e.id for e in entries).items() if count > 1]
        if repeated:
            yield Finding(True, f"{name}.jsonl: repeated ids: {_listed(repeated)}")
    shared = {p.prompt for p in pack.prompts} & {o.prompt for o in pack.originals}
    if shared:
        yield Finding(
            False, f"{len(shared)} prompts are in both prompts.jsonl and anchors.jsonl: the gate is less blind"
        )


def _references(pack: TaskPack) -> Iterator[Finding]:
    """An item without the reference that a check or the evaluator needs can never be scored."""
    rubrics = [
        f"rubric {name!r}"
        for name, rubric in pack.rubrics.items()
        if any(criterion.check.needs_reference for criterion in rubric.check_criteria)
    ]
    evaluator = [f"evaluator {pack.evaluator!r}"] if pack.evaluator in _NEEDS_REFERENCE else []
    for name, entries, needed_by in (
        ("prompts", pack.prompts, rubrics + evaluator),
        ("anchors", pack.originals, rubrics),
    ):
        missing = [entry.id for entry in entries if entry.reference is None]
        if missing and needed_by:
            text = f"{len(missing)} lines without a reference, which {needed_by[0]} needs: {_listed(missing)}"
            yield Finding(True, f"{name}.jsonl: {text}")


def _scopes(pack: TaskPack) -> Iterator[Finding]:
    used = {entry.scope for entries in (pack.prompts, pack.originals) for entry in entries if entry.scope}
    unknown = sorted(used - set(pack.scopes))
    if unknown:
        yield Finding(True, f"scopes that task.toml does not list: {_listed(unknown)}")
    if pack.kind == "depth" and not pack.scopes:
        yield Finding(False, "a depth task without scopes evolves one rubric for all prompts: list scopes in task.toml")
    if pack.kind == "breadth" and pack.scopes:
        yield Finding(True, 'a breadth task has one rubric for all prompts: set kind = "depth", or remove the scopes')


def _labels(pack: TaskPack) -> Iterator[Finding]:
    known = set(pack.verdicts)
    if not known:
        return
    unknown = [e.id for entries in (pack.prompts, pack.originals) for e in entries if e.reference not in known]
    if unknown:
        yield Finding(True, f"references that are no verdict of task.toml: {_listed(unknown)}")
    for name, rubric in pack.rubrics.items():
        checks = [c.check for c in rubric.check_criteria if isinstance(c.check, VerdictEqual)]
        if any(set(check.verdicts) != known for check in checks):
            yield Finding(True, f"rubric {name!r}: the verdicts of verdict_equal differ from those of task.toml")


def _gate(pack: TaskPack) -> Iterator[Finding]:
    total, held_out = len(pack.originals), len(build_anchors(pack, _ALL_ORIGINALS).originals)
    if held_out < MIN_ORIGINALS:
        text = f"{held_out} of {total} originals are held out for the gate, which needs {MIN_ORIGINALS}"
        yield Finding(False, f"{text}: rubrics will not evolve. Add originals")
    elif total < ENOUGH_ORIGINALS:
        yield Finding(False, f"{total} originals; with {ENOUGH_ORIGINALS} the gate can detect smaller gains")
    examples = [original.id for original in pack.originals if is_example_text(original.completion)]
    if examples:
        text = f"{len(examples)} of {total} lines are still the examples of a new pack: {_listed(examples)}"
        yield Finding(False, f"anchors.jsonl: {text}. Put completions that you trust in their place")
    texts = {original.id: original.completion.strip() for original in pack.originals}
    short = [name for name, text in texts.items() if len(text.split()) < _MIN_WORDS and len(text) < _MIN_CHARS]
    if short:
        yield Finding(False, f"anchors.jsonl: originals too short to damage: {_listed(short)}")


def _listed(ids: list[str]) -> str:
    return ", ".join(ids[:_LISTED_IDS])
