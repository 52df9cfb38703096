"""The key of the prompt fences, equal on all replicas, so that equal prompts stay equal for the engines' caches."""

import secrets

from redis.asyncio import Redis

from services.kit.store.redis import shared_fence_key


class FenceKey:
    """The configured key, else the one that the first replica put into Redis; until it is read, a random one."""

    def __init__(self, configured: str) -> None:
        self._configured = bool(configured)
        self.value = (configured or secrets.token_hex(32)).encode()

    async def load(self, redis: Redis) -> None:
        """Use the shared key from the next request on, unless one is configured. Raises `RedisError`.

        A Redis that has none, or has lost it, gets the one in use.
        """
        if not self._configured:
            self.value = await shared_fence_key(redis, self.value.decode())
