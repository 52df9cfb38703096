"""Delays between sign-ins from one address after wrong keys. Pure; each replica counts by itself."""

import ipaddress
from collections import OrderedDict
from typing import NamedTuple

_FREE_ATTEMPTS = 3
"""A person mistypes a key or pastes another one."""
_MAX_DELAY_S = 300.0
_MAX_ADDRESSES = 4_096


class _Failures(NamedTuple):
    number: int
    retry_at: float


class SignInThrottle:
    """After three wrong keys, an address waits 2, 4, 8 ... 300 s between attempts, until a key is right."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def delay_s(self, address: str, now: float) -> float:
        """Seconds that the address has to wait before its next attempt; 0: none."""
        failures = self._failures.get(_network(address))
        return max(0.0, failures.retry_at - now) if failures else 0.0

    def failed(self, address: str, now: float) -> None:
        """Count a wrong key. The addresses that failed longest ago are forgotten first."""
        network = _network(address)
        number = self._failures.pop(network, _Failures(0, now)).number + 1
        excess = min(number - _FREE_ATTEMPTS, 16)  # 2 ** 16 s is beyond the maximum
        self._failures[network] = _Failures(number, now + (min(_MAX_DELAY_S, 2.0**excess) if excess > 0 else 0.0))
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget the address's failures."""
        self._failures.pop(_network(address), None)


def _network(address: str) -> str:
    """An IPv6 caller usually has a /64 of addresses; of IPv4, one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
