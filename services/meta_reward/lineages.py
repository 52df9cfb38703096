"""Which lines evolve here: those of the tasks served, and of their scopes that have a rubric of their own.

A trace stands in the line of the rubric that scored it, so these are all the scopes that traces can show. What is
asked for in another scope was scored by the next wider line, and is that one's evidence.
"""

import logging

from services.kit.store.keys import Line
from services.kit.store.rubric_store import RubricStore
from services.meta_reward.settings import MetaRewardSettings, served_lines

log = logging.getLogger(__name__)


async def lines_of(store: RubricStore, settings: MetaRewardSettings) -> tuple[Line, ...]:
    """Each served task's own line, and behind it those of its scopes, at most `max_scopes` of them."""
    found: list[Line] = []
    for line in served_lines(settings):
        scoped = [one for one in await store.lines(line.task) if one.lineage == line.lineage and one.scope is not None]
        if len(scoped) > settings.max_scopes:
            left = len(scoped) - settings.max_scopes
            log.debug("scopes are left as they are", extra={"task": line.task, "scopes": left})
        found += [line, *scoped[: settings.max_scopes]]
    return tuple(found)
