"""A bounded mapping that drops the entry used least recently."""

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(OrderedDict[K, V]):
    """A mapping of at most `size` entries. `find` and assignment count as uses; other reads do not."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._size:
            self.popitem(last=False)

    def find(self, key: K) -> V | None:
        """The value of `key`, or None."""
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value
