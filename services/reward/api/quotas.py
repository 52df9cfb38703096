"""Quotas of tenants: budgets of requests, items and bytes by API key, applied before any other work on a request.

A budget belongs to one replica and lives in its memory, because a shared one would cost each request a round trip to
Redis. A request over budget is answered 429 with the seconds to wait.
"""

import hmac
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.kit.errors import Overloaded
from services.reward.metrics import RewardMetrics
from services.reward.settings import Tenant

Clock = Callable[[], float]


class TokenBucket:
    """Holds a minute's tokens at most and refills evenly; one take may overdraw it.

    So a batch larger than the budget is served, and later requests wait until the debt is refilled.
    """

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self.per_minute = self._tokens = per_minute
        self._clock = clock
        self._updated_at = clock()

    def wait_s(self) -> float:
        """Seconds until it holds tokens; 0 if it does."""
        now = self._clock()
        self._tokens = min(self.per_minute, self._tokens + (now - self._updated_at) * self.per_minute / 60.0)
        self._updated_at = now
        return 0.0 if self._tokens > 0.0 else (1e-3 - self._tokens) * 60.0 / self.per_minute

    def take(self, tokens: float) -> None:
        """Take tokens, even more than it holds."""
        self._tokens -= tokens


@dataclass(frozen=True, slots=True)
class TenantBudgets:
    """A tenant's budgets in this replica; None is unlimited."""

    name: str
    requests: TokenBucket | None
    items: TokenBucket | None
    bytes: TokenBucket | None


class Quotas:
    """The budgets of every tenant, by key."""

    def __init__(self, tenants: Mapping[str, Tenant], metrics: RewardMetrics, clock: Clock = time.monotonic) -> None:
        def bucket(per_minute: float | None) -> TokenBucket | None:
            return None if per_minute is None else TokenBucket(per_minute, clock)

        self._metrics = metrics
        self._tenants = [
            (key.get_secret_value().encode(), budgets)
            for name, tenant in tenants.items()
            for budgets in [
                TenantBudgets(
                    name,
                    bucket(tenant.requests_per_minute),
                    bucket(tenant.items_per_minute),
                    bucket(tenant.byte_budget),
                )
            ]
            for key in tenant.keys
        ]

    def admit_request(self, key: str) -> TenantBudgets | None:
        """Count a request, before its body is parsed; None for a key that belongs to no tenant.

        Raises `Overloaded` where one of the tenant's budgets is used up.
        """
        tenant = self._tenant_of(key)
        if tenant is not None:
            self._refuse_if_empty(tenant, tenant.requests, "requests")
            self._refuse_if_empty(tenant, tenant.items, "items")
            self._refuse_if_empty(tenant, tenant.bytes, "bytes")
            if tenant.requests is not None:
                tenant.requests.take(1)
        return tenant

    def charge_items(self, tenant: TenantBudgets | None, items: int, size: int) -> None:
        """Count a request's items, and the `size` of its body in bytes.

        Raises `Overloaded` where concurrent requests have used up a budget.
        """
        if tenant is None:
            return
        self._refuse_if_empty(tenant, tenant.items, "items")
        self._refuse_if_empty(tenant, tenant.bytes, "bytes")
        if tenant.items is not None:
            tenant.items.take(items)
        if tenant.bytes is not None:
            tenant.bytes.take(size)
        self._metrics.count_tenant_request(tenant.name, "admitted", items, size)

    def _tenant_of(self, key: str) -> TenantBudgets | None:
        """Compares with every key in constant time, so that neither value nor position leaks."""
        given, owner = key.encode(), None
        for known, tenant in self._tenants:
            if hmac.compare_digest(known, given):
                owner = tenant
        return owner

    def _refuse_if_empty(self, tenant: TenantBudgets, bucket: TokenBucket | None, unit: str) -> None:
        if bucket is not None and (wait_s := bucket.wait_s()) > 0.0:
            self._metrics.count_tenant_request(tenant.name, "refused")
            raise Overloaded(
                f"tenant {tenant.name} has used up its {unit}_per_minute ({bucket.per_minute:g})",
                code="quota",
                retry_after=math.ceil(wait_s),
            )
