"""The anchors that Redis adds to a task pack's originals: users' labelled pairs, and early completions of runs."""

from collections.abc import Mapping, Sequence

from redis.asyncio import Redis

from regrade.contracts import MAIN_LINEAGE, MAX_LABELLED, AnchorsResponse, LabelledPair
from regrade.tasks import load_pack
from regrade.tasks.anchors import AnchorSet, build_anchors
from regrade.tasks.pack import Original
from services.kit.errors import Invalid
from services.kit.store import keys
from services.kit.store.keys import LineageKey


class AnchorStore:
    """Labelled pairs by task and identity, early completions by lineage and trace id."""

    def __init__(self, redis: Redis, max_originals: int) -> None:
        self._redis = redis
        self._max_originals = max_originals

    async def read(self, lineage: LineageKey) -> AnchorSet:
        """The task's anchors and the lineage's early completions. Raises `UnknownTaskError` without a pack."""
        pairs = await self._redis.hvals(keys.anchors_key(lineage.task))
        texts = await self._redis.hvals(keys.early_completions_key(lineage))
        return build_anchors(
            load_pack(lineage.task),
            self._max_originals,
            [LabelledPair.model_validate_json(text) for text in pairs],
            sorted(map(Original.model_validate_json, texts), key=lambda original: original.id),
        )

    async def early_completion_ids(self, lineage: LineageKey) -> set[str]:
        """Ids of the traces that are early completions. No proposer may see them."""
        return {str(trace_id) for trace_id in await self._redis.hkeys(keys.early_completions_key(lineage))}

    async def add_early_completions(self, lineage: LineageKey, originals: Mapping[str, Original]) -> AnchorSet:
        """Store early completions by trace id, for good; returns the lineage's anchors with them."""
        if originals:
            items = [
                text for trace_id, original in originals.items() for text in (trace_id, original.model_dump_json())
            ]
            await self._redis.hset(keys.early_completions_key(lineage), items=items)
        return await self.read(lineage)

    async def add(self, task: str, pairs: Sequence[LabelledPair]) -> None:
        """Store labelled pairs for good. A pair that exists is replaced only by one with a reference.

        Raises `Invalid` for too many pairs: each one costs judge calls in every gate.
        """
        key = keys.anchors_key(task)
        known = set(await self._redis.hkeys(key))
        if len(known | {pair.identity for pair in pairs}) > MAX_LABELLED:
            raise Invalid(
                f"a task holds {MAX_LABELLED} pairs at most, and {len(known)} are stored; import fewer",
                code="too_many_anchors",
            )
        async with self._redis.pipeline(transaction=True) as pipe:
            for pair in pairs:
                put = pipe.hsetnx if pair.reference is None else pipe.hset
                put(key, pair.identity, pair.model_dump_json(exclude_none=True))
            await pipe.execute()

    async def summary(self, task: str) -> AnchorsResponse:
        """The number of anchors of each kind in the task's main lineage."""
        anchors = await self.read(LineageKey(task, MAIN_LINEAGE))
        pairs = await self._redis.hlen(keys.anchors_key(task))
        return AnchorsResponse(
            version=anchors.version,
            originals=len(anchors.originals),
            early=anchors.early_originals,
            cases=len(anchors.cases),
            pairs=int(pairs),
        )
