"""Which proxy a connection goes through, and which environment variable says so."""

import importlib.util
import ipaddress
import os
import re
import urllib.request
from typing import NamedTuple

import httpx

from regrade.errors import ConfigurationError

_SCHEMES = ("http", "https", "socks5", "socks5h")


class ProxySetting(NamedTuple):
    """A proxy and the setting that names it."""

    url: str
    source: str

    def __str__(self) -> str:
        return f"via proxy {masked(self.url)} from {self.source}"


def masked(url: str) -> str:
    """A URL, well-formed or not, without the credentials in it."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1***@", url, count=1, flags=re.DOTALL)


def proxy_for(url: httpx.URL) -> ProxySetting | None:
    """The proxy for a service's URL; never one for an address of this machine. Raises `ConfigurationError`."""
    if is_this_machine(url.host) or _is_excepted(url):
        return None
    setting = _setting(url.scheme)
    if setting is None:
        return None
    scheme = setting.url.partition("://")[0].lower()
    off = f"or leave the service out: NO_PROXY={url.host}"
    if scheme not in _SCHEMES:
        raise ConfigurationError("proxy", f"{setting.source}: {masked(setting.url)} is no HTTP or SOCKS5 proxy; {off}")
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ConfigurationError(
            "proxy", f"{setting.source}={masked(setting.url)} needs a package: pip install 'httpx[socks]'; {off}"
        )
    if not _has_valid_address(setting.url):
        raise ConfigurationError("proxy", f"{setting.source}: {masked(setting.url)} is no URL of a proxy; {off}")
    return setting


def _has_valid_address(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return False
    return is_host(url.host) and 0 < (url.port or 80) < 65_536


def is_host(host: str) -> bool:
    """Whether it may be a name or an address; httpx escapes what can be in neither."""
    return bool(host) and ("%" not in host or ":" in host)


def is_this_machine(host: str) -> bool:
    """Whether a host is a loopback or an unspecified address, or a name for one."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _setting(scheme: str) -> ProxySetting | None:
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        if value := os.environ.get(name, "").strip():
            return ProxySetting(value if "://" in value else f"http://{value}", name)
    system = urllib.request.getproxies().get(scheme)
    return ProxySetting(system, "the system's settings") if system else None


def _is_excepted(url: httpx.URL) -> bool:
    """Whether `no_proxy` lists the host: as a name, a domain, an address, a network, or `*`."""
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    listed = [entry.lower() for entry in re.split(r"[,\s]+", excepted.strip())]
    entries = [entry.removeprefix("*").lstrip(".").rstrip(".") for entry in listed]
    host = url.host.lower().rstrip(".")
    names = (host, f"{host}:{url.port}", f"[{host}]:{url.port}")
    if "*" in listed or any(name == e or name.endswith(f".{e}") for e in entries if e for name in names):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(_contains(entry.strip("[]"), address) for entry in entries)


def _contains(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
