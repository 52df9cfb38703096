"""Which lines evolve here: those of the tasks served, and of their scopes that have a rubric of their own.

A trace stands in the line of the rubric that scored it, so these are all the scopes that traces can show. What is
asked for in another scope was scored by the next wider line, and is that one's evidence.
"""

import logging

from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore
from services.meta_reward.settings import MetaRewardSettings, served_lineages

log = logging.getLogger(__name__)


async def lineages_of(store: RubricStore, settings: MetaRewardSettings) -> tuple[LineageKey, ...]:
    """Each served task's own line, and behind it those of its scopes, at most `max_scopes` of them."""
    found: list[LineageKey] = []
    for lineage in served_lineages(settings):
        scoped = [
            one for one in await store.lineages(lineage.task) if one.name == lineage.name and one.scope is not None
        ]
        if len(scoped) > settings.max_scopes:
            left = len(scoped) - settings.max_scopes
            log.debug("scopes are left as they are", extra={"task": lineage.task, "scopes": left})
        found += [lineage, *scoped[: settings.max_scopes]]
    return tuple(found)
