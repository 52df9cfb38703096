"""Stored judgements: the answers of engine calls, by the hash of everything that determines the answer."""

from collections.abc import Mapping, Sequence

from pydantic_core import from_json, to_json

from services.kit.store import keys
from services.kit.store.redis import CommandSender, LuaFunction
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable

Judged = tuple[tuple[float, ...], ...] | str
"""An engine call's answer: a distribution over the levels for each requested position, or a text."""


class JudgementStore:
    """Judgements by identity, shared by replicas, duplicates and candidate rubrics. The first one stored counts.

    A cache: while Redis is unavailable it is empty, and no call fails.
    """

    def __init__(self, commands: CommandSender, circuit: CircuitBreaker, *, ttl_s: int = 86_400) -> None:
        self._commands = commands
        self._circuit = circuit
        self._store_judgements = LuaFunction(commands, "store_judgements")
        self._ttl_s = ttl_s

    async def get(self, task: str, identities: Sequence[str]) -> dict[str, Judged]:
        """The stored judgements among `identities`, in one round trip."""
        if not identities:
            return {}
        redis_keys = [keys.judgement_key(task, i) for i in identities]
        try:
            with self._circuit.guard():
                values = await self._commands.execute_command("MGET", *redis_keys)
        except RedisUnavailable:
            return {}
        return {i: _parse(str(v)) for i, v in zip(identities, values, strict=True) if v is not None}

    async def put(self, task: str, judgements: Mapping[str, Judged]) -> dict[str, Judged]:
        """Store judgements in one round trip; returns those that another replica had stored before."""
        if not judgements:
            return {}
        redis_keys = [keys.judgement_key(task, identity) for identity in judgements]
        values: list[str | bytes | int] = [self._ttl_s, *map(to_json, judgements.values())]
        try:
            with self._circuit.guard():
                earlier = await self._store_judgements(redis_keys, values)
        except RedisUnavailable:
            return {}
        return {i: _parse(text) for i, text in zip(judgements, earlier, strict=True) if text != ""}


def _parse(text: str) -> Judged:
    value = from_json(text)
    return value if isinstance(value, str) else tuple(tuple(distribution) for distribution in value)
