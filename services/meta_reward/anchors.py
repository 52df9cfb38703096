"""The labelled pairs of every task, as users import them; with the task pack's originals they make its anchors."""

from collections.abc import Sequence

from redis.asyncio import Redis

from regrade.contracts import MAX_LABELLED, AnchorsAnswer, LabelledPair
from regrade.tasks import load_pack
from regrade.tasks.anchors import AnchorSet, build_anchors
from services.kit import keyspace as ks
from services.kit.errors import Invalid


class AnchorStore:
    """Pairs by identity: a pair imported twice is there once."""

    def __init__(self, redis: Redis, max_originals: int) -> None:
        self._redis = redis
        self._max_originals = max_originals

    async def of(self, task: str) -> AnchorSet:
        """The task's anchor set. Raises `UnknownTaskError` without a pack."""
        found = await self._redis.hvals(ks.anchors_key(task))
        labelled = [LabelledPair.model_validate_json(text) for text in found]
        return build_anchors(load_pack(task), self._max_originals, labelled)

    async def add(self, task: str, pairs: Sequence[LabelledPair]) -> None:
        """Keep pairs for good. Raises `Invalid` for too many: each one costs judge calls in every gate."""
        key = ks.anchors_key(task)
        known = set(await self._redis.hkeys(key))
        if len(known | {pair.identity for pair in pairs}) > MAX_LABELLED:
            raise Invalid(f"{len(known)} pairs are there, {MAX_LABELLED} a task at most", code="too_many_anchors")
        async with self._redis.pipeline(transaction=True) as pipe:
            for pair in pairs:
                pipe.hset(key, pair.identity, pair.model_dump_json())
            await pipe.execute()

    async def told(self, task: str) -> AnchorsAnswer:
        """What there is, in figures."""
        anchors = await self.of(task)
        pairs = await self._redis.hlen(ks.anchors_key(task))
        return AnchorsAnswer(
            version=anchors.version, originals=len(anchors.originals), cases=len(anchors.cases), pairs=int(pairs)
        )
