"""The lineages that evolve: those of the served tasks, and of their scopes that have a rubric of their own.

A trace belongs to the lineage of the rubric that scored it, so these cover every trace. A scope without a rubric is
scored by the next wider lineage, and is evidence there.
"""

import logging

from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore
from services.meta_reward.settings import MetaRewardSettings, served_lineages

log = logging.getLogger(__name__)

MAX_SCOPES = 64
"""Scopes of one task that evolve. The worker polls every lineage in turn, so an unbounded number would delay them all;
the shipped packs name at most 7."""


async def evolving_lineages(store: RubricStore, settings: MetaRewardSettings) -> tuple[LineageKey, ...]:
    """Each served task's main lineage, followed by those of its first `MAX_SCOPES` scopes."""
    lineages: list[LineageKey] = []
    for main in served_lineages(settings):
        scoped = [key for key in await store.lineages(main.task) if key.name == main.name and key.scope is not None]
        if len(scoped) > MAX_SCOPES:
            log.debug("scopes over the limit", extra={"task": main.task, "scopes": len(scoped) - MAX_SCOPES})
        lineages += [main, *scoped[:MAX_SCOPES]]
    return tuple(lineages)
