"""The part of verl's TransferQueue that its agent loop and replay buffer use, as dictionaries of one process."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any


class Queue:
    """Tags by partition and key, and the fields of each key."""

    def __init__(self) -> None:
        self.tags: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.fields: dict[str, Any] = {}

    async def async_kv_put(self, key: str, partition_id: str, tag: dict[str, Any]) -> None:
        """A prompt's status."""
        row = self.tags[partition_id].setdefault(key, {"is_prompt": True, "global_steps": 1})
        row.update(tag)

    async def async_kv_batch_put(
        self, keys: Sequence[str], fields: Any, tags: Sequence[dict[str, Any]], partition_id: str
    ) -> None:
        """Trajectories of one session."""
        for number, (key, tag) in enumerate(zip(keys, tags, strict=True)):
            self.tags[partition_id][key] = tag
            self.fields[key] = fields[number]

    def kv_list(self) -> dict[str, dict[str, dict[str, Any]]]:
        """All tags."""
        return {partition: dict(tags) for partition, tags in self.tags.items()}

    def kv_clear(self, partition_id: str, keys: Sequence[str]) -> None:
        """Remove tags."""
        for key in keys:
            self.tags[partition_id].pop(key, None)
