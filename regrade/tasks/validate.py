"""Whether a task pack that can be read can also be trained on, and what its gate will be able to show. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from regrade.contracts import Rubric
from regrade.contracts.checks import NEEDS_REFERENCE, VerdictEqual
from regrade.tasks.anchors import build_anchors
from regrade.tasks.pack import TaskPack

FEWEST_ORIGINALS = 8
"""The gate decides nothing on fewer originals that the proposers have not seen."""
ENOUGH_ORIGINALS = 40
_MOST = 10_000
_NEEDS = {"rouge", "verdict", "math"}


class Finding(NamedTuple):
    """Something to mend (`fatal`), or to know."""

    fatal: bool
    text: str


def findings(pack: TaskPack) -> list[Finding]:
    """What is wrong with a pack, fatal first."""
    found = [*_lists(pack), *_references(pack), *_scopes(pack), *_verdicts(pack)]
    if not any(finding.fatal for finding in found):
        found.extend(_gate(pack))
    return sorted(found, key=lambda finding: not finding.fatal)


def _lists(pack: TaskPack) -> Iterator[Finding]:
    if not pack.prompts:
        yield Finding(True, "prompts.jsonl is empty: there is nothing to train on")
    if not pack.originals:
        yield Finding(True, "anchors.jsonl is empty: the gate has nothing to measure on")
    for name, entries in (("prompts", pack.prompts), ("anchors", pack.originals), ("attacks", pack.attacks)):
        twice = [entry for entry, count in Counter(e.id for e in entries).items() if count > 1]
        if twice:
            yield Finding(True, f"{name}.jsonl: ids stand twice: {', '.join(twice[:5])}")
    shared = {p.prompt for p in pack.prompts} & {o.prompt for o in pack.originals}
    if shared:
        yield Finding(False, f"{len(shared)} prompts stand in prompts.jsonl and anchors.jsonl: the gate is less blind")


def _references(pack: TaskPack) -> Iterator[Finding]:
    """An item without the reference that a check or the evaluator needs can never be scored."""
    needing = [f"rubric {name!r}" for name, rubric in pack.rubrics.items() if _needs_reference(rubric)]
    measured = [f"evaluator {pack.evaluator!r}"] if pack.evaluator in _NEEDS else []
    for name, entries, wants in (("prompts", pack.prompts, needing + measured), ("anchors", pack.originals, needing)):
        without = [entry.id for entry in entries if entry.reference is None]
        if without and wants:
            text = f"{len(without)} lines without a reference, which {wants[0]} needs: {', '.join(without[:5])}"
            yield Finding(True, f"{name}.jsonl: {text}")


def _needs_reference(rubric: Rubric) -> bool:
    return any(isinstance(criterion.check, NEEDS_REFERENCE) for criterion in rubric.check_criteria)


def _scopes(pack: TaskPack) -> Iterator[Finding]:
    used = {entry.scope for entries in (pack.prompts, pack.originals) for entry in entries if entry.scope}
    unknown = sorted(used - set(pack.scopes))
    if unknown:
        yield Finding(True, f"scopes that task.toml does not list: {', '.join(unknown[:5])}")
    if pack.kind == "depth" and not pack.scopes:
        yield Finding(False, "a depth task without scopes evolves one rubric for all; list scopes in task.toml")
    if pack.kind == "breadth" and pack.scopes:
        yield Finding(True, 'a breadth task has one rubric for all: kind = "depth", or no scopes')


def _verdicts(pack: TaskPack) -> Iterator[Finding]:
    known = set(pack.verdicts)
    if not known:
        return
    named = [(e.id, e.reference) for entries in (pack.prompts, pack.originals) for e in entries]
    odd = [entry for entry, reference in named if reference not in known]
    if odd:
        yield Finding(True, f"references that are no verdict of task.toml: {', '.join(odd[:5])}")
    for name, rubric in pack.rubrics.items():
        checks = [c.check for c in rubric.check_criteria if isinstance(c.check, VerdictEqual)]
        if any(set(check.verdicts) != known for check in checks):
            yield Finding(True, f"rubric {name!r}: verdict_equal knows other verdicts than task.toml")


def _gate(pack: TaskPack) -> Iterator[Finding]:
    anchors = build_anchors(pack, _MOST)
    hidden = len(anchors.originals)
    if hidden < FEWEST_ORIGINALS:
        text = f"{hidden} of {len(pack.originals)} originals are unseen by the proposers; the gate decides on no fewer "
        yield Finding(False, f"{text}than {FEWEST_ORIGINALS}: rubrics will not evolve. Add originals")
    elif len(pack.originals) < ENOUGH_ORIGINALS:
        text = f"{len(pack.originals)} originals; with {ENOUGH_ORIGINALS} the gate can tell smaller gains"
        yield Finding(False, text)
    short = _one_liners(pack)
    if short:
        yield Finding(False, f"anchors.jsonl: one sentence alone leaves little to damage: {', '.join(short[:5])}")


def _one_liners(pack: TaskPack) -> Sequence[str]:
    return [original.id for original in pack.originals if len(original.completion.split()) < FEWEST_ORIGINALS]
