"""What the gate measures on, beside the task pack's originals: users' labelled pairs, and early completions."""

from collections.abc import Mapping, Sequence

from redis.asyncio import Redis

from regrade.contracts import MAIN_LINEAGE, MAX_LABELLED, AnchorsAnswer, LabelledPair
from regrade.tasks import load_pack
from regrade.tasks.anchors import AnchorSet, build_anchors
from regrade.tasks.pack import Original
from services.kit.errors import Invalid
from services.kit.store import keys
from services.kit.store.keys import LineageKey


class AnchorStore:
    """Pairs by identity: a pair imported twice is there once."""

    def __init__(self, redis: Redis, max_originals: int) -> None:
        self._redis = redis
        self._max_originals = max_originals

    async def of(self, task: str) -> AnchorSet:
        """The anchor set of the task's own line. Raises `UnknownTaskError` without a pack."""
        return await self.read(LineageKey(task, MAIN_LINEAGE))

    async def read(self, lineage: LineageKey) -> AnchorSet:
        """A line's anchor set: the task's, and the line's own early completions. Raises `UnknownTaskError`."""
        found = await self._redis.hvals(keys.anchors_key(lineage.task))
        labelled = [LabelledPair.model_validate_json(text) for text in found]
        early = [
            Original.model_validate_json(text) for text in await self._redis.hvals(keys.early_completions_key(lineage))
        ]
        early.sort(key=lambda original: original.id)
        return build_anchors(load_pack(lineage.task), self._max_originals, labelled, early)

    async def early_ids(self, lineage: LineageKey) -> set[str]:
        """Ids of the traces whose completions the line's gate measures on: no proposer sees them."""
        return {str(trace_id) for trace_id in await self._redis.hkeys(keys.early_completions_key(lineage))}

    async def add_early(self, lineage: LineageKey, early: Mapping[str, Original]) -> AnchorSet:
        """Keep early completions, by trace id, for good; the line's anchor set with them."""
        if early:
            async with self._redis.pipeline(transaction=True) as pipe:
                for trace_id, original in early.items():
                    pipe.hset(keys.early_completions_key(lineage), trace_id, original.model_dump_json())
                await pipe.execute()
        return await self.read(lineage)

    async def add(self, task: str, pairs: Sequence[LabelledPair]) -> None:
        """Keep pairs for good; one that is there may be given a reference, and none is forgotten.

        Raises `Invalid` for too many: each one costs judge calls in every gate.
        """
        key = keys.anchors_key(task)
        known = set(await self._redis.hkeys(key))
        if len(known | {pair.identity for pair in pairs}) > MAX_LABELLED:
            raise Invalid(f"{len(known)} pairs are there, {MAX_LABELLED} a task at most", code="too_many_anchors")
        async with self._redis.pipeline(transaction=True) as pipe:
            for pair in pairs:
                keep = pipe.hsetnx if pair.reference is None else pipe.hset
                keep(key, pair.identity, pair.model_dump_json(exclude_none=True))
            await pipe.execute()

    async def told(self, task: str) -> AnchorsAnswer:
        """What there is, in figures."""
        anchors = await self.of(task)
        pairs = await self._redis.hlen(keys.anchors_key(task))
        return AnchorsAnswer(
            version=anchors.version,
            originals=len(anchors.originals),
            early=anchors.early_originals,
            cases=len(anchors.cases),
            pairs=int(pairs),
        )
