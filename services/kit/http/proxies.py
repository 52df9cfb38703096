"""The proxy through which a URL is reached: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.

Loopback is never reached through a proxy. Names inside a cluster are, unless `NO_PROXY` lists them, as everywhere.
"""

from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass


class Proxy(NamedTuple):
    """A proxy's URL with its credentials, a name that may be logged, and why it cannot be used, if it cannot."""

    url: str
    name: str
    problem: str = ""


def proxy_of(url: str) -> Proxy | None:
    """The proxy that the environment names for `url`; None for a direct connection."""
    target = urlsplit(url)
    proxies = getproxies_environment()
    text = proxies.get(target.scheme) or proxies.get("all") or ""
    if not text or _is_direct(target.hostname or "", target.port, proxies):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        name = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
    except ValueError:
        return Proxy("", "", "the proxy in the environment is no URL; correct it, or list the host in NO_PROXY")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        problem = f"{parts.scheme} proxies are not supported ({name}); set an http one, or list the host in NO_PROXY"
        return Proxy("", str(name), problem)
    return Proxy(parts.geturl(), str(name))


def _is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_direct(host: str, port: int | None, proxies: dict[str, str]) -> bool:
    if _is_loopback(host) or proxy_bypass(host if port is None else f"{host}:{port}"):
        return True
    return any(_is_in_network(host, entry.strip()) for entry in proxies.get("no", "").split(","))


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
