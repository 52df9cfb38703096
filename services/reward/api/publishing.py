"""Activation of rubrics that a user puts or a task pack brings, recorded as an override or bootstrap (I6)."""

import logging
from collections.abc import Sequence

from regrade.contracts import MAIN_LINEAGE, ActiveRubric, Override, PutRubric, Rubric
from regrade.tasks import load_pack
from services.kit.errors import Conflict
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore

log = logging.getLogger(__name__)


async def publish(store: RubricStore, task: str, put: PutRubric) -> ActiveRubric:
    """Activate a rubric: a bootstrap where nothing is active, else an override. Raises `Conflict`."""
    lineage = LineageKey(task, put.rubric.lineage, put.rubric.scope)
    current = await store.active(lineage)
    active = current.digest if current else None
    if put.expected is not None and put.expected != active:
        raise Conflict(f"another rubric is active: {active or 'none'}")
    if current is not None and current.digest == put.rubric.digest:
        return ActiveRubric(digest=current.digest, version=current.version or 0)
    authority = Override(by=put.by, reason=put.reason, bootstrap=current is None)
    origin = {"version": None, "parent": active, "created_by": put.rubric.created_by or put.by}
    rubric = put.rubric.model_copy(update=origin)
    await store.put(task, rubric)
    version = await store.activate(lineage, rubric.digest, expected=active, authority=authority)
    log.info("rubric put", extra={"task": task, "lineage": lineage.label, "version": version, "by": put.by})
    return ActiveRubric(digest=rubric.digest, version=version)


def starting_rubrics(tasks: Sequence[str]) -> dict[LineageKey, Rubric]:
    """The first rubric of each lineage that the packs start: a task's and, for a depth task, one for each scope."""
    starting: dict[LineageKey, Rubric] = {}
    for task in tasks:
        pack = load_pack(task)
        scopes = pack.scopes if pack.kind == "depth" else ()
        starting |= {LineageKey(task, MAIN_LINEAGE, scope): pack.starting_rubric for scope in (None, *scopes)}
    return starting
