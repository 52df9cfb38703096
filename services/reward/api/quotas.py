"""Tenants: named keys with budgets of requests and items, held at the door of `/score` before anything is done.

A budget is this replica's own and lives in its memory: asking Redis would put a round trip before every request, and
a replica that starts with full budgets does no harm. What is over budget is answered 429 with the seconds to wait.
"""

import hmac
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from services.kit.errors import Overloaded
from services.reward.metrics import RewardMetrics

Clock = Callable[[], float]


class Tenant(BaseModel):
    """One caller's keys, and what it may ask of a replica; a budget left out is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    keys: tuple[Annotated[SecretStr, Field(min_length=8)], ...] = Field(min_length=1)
    requests_per_minute: float | None = Field(None, gt=0)
    items_per_minute: float | None = Field(None, gt=0)


class TokenBucket:
    """A minute's worth that refills evenly. While something is left the next may be taken whole, on credit.

    So a batch larger than the budget is served, and paid for by waiting.
    """

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self._most = per_minute
        self._left = per_minute
        self._clock = clock
        self._at = clock()

    def wait_s(self) -> float:
        """Seconds until something is left; 0 where something is."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._most / 60.0)
        self._at = now
        return 0.0 if self._left > 0.0 else (1e-3 - self._left) * 60.0 / self._most

    def take(self, amount: float) -> None:
        """Spend, whatever is left."""
        self._left -= amount


@dataclass(frozen=True, slots=True)
class TenantBudgets:
    """A tenant's budgets in this replica."""

    name: str
    requests: TokenBucket | None
    items: TokenBucket | None


class Quotas:
    """Every tenant's account, found by key."""

    def __init__(self, tenants: Mapping[str, Tenant], metrics: RewardMetrics, clock: Clock = time.monotonic) -> None:
        def budget(per_minute: float | None) -> TokenBucket | None:
            return None if per_minute is None else TokenBucket(per_minute, clock)

        self._metrics = metrics
        self._accounts = [
            (key.get_secret_value().encode(), account)
            for name, tenant in tenants.items()
            for account in [TenantBudgets(name, budget(tenant.requests_per_minute), budget(tenant.items_per_minute))]
            for key in tenant.keys
        ]

    def enter(self, key: str) -> TenantBudgets | None:
        """Count a request of the tenant whose key this is; None for keys without one.

        Raises `Overloaded` where one of its budgets is spent. The body has not been read yet.
        """
        account = self._account_of(key)
        if account is not None:
            self._refuse_if_spent(account, account.requests, "requests")
            self._refuse_if_spent(account, account.items, "items")
            if account.requests is not None:
                account.requests.take(1)
        return account

    def charge(self, account: TenantBudgets | None, items: int) -> None:
        """Count a request's items. Raises `Overloaded` where requests that came meanwhile have spent the budget."""
        if account is None:
            return
        self._refuse_if_spent(account, account.items, "items")
        if account.items is not None:
            account.items.take(items)
        self._metrics.tenant(account.name, "admitted", items)

    def _account_of(self, key: str) -> TenantBudgets | None:
        """Compared with every key in constant time, so that neither value nor position leaks."""
        given, found = key.encode(), None
        for known, account in self._accounts:
            if hmac.compare_digest(known, given):
                found = account
        return found

    def _refuse_if_spent(self, account: TenantBudgets, budget: TokenBucket | None, what: str) -> None:
        wait_s = 0.0 if budget is None else budget.wait_s()
        if wait_s > 0.0:
            self._metrics.tenant(account.name, "refused")
            raise Overloaded(
                f"tenant {account.name} has spent its {what} a minute", code="quota", retry_after=math.ceil(wait_s)
            )
