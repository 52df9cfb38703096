"""Sessions of the console: a key is sent once, in a form's body, and a signed cookie replaces it.

The cookie is an expiry time, an id, and their HMAC under the key. So every replica that knows the key accepts the
cookie, the key is in no URL and no cookie, and removing a key from the settings ends its sessions. Redis keeps the ids
of sessions that were ended by signing out, until they would have expired (I8).
"""

import hashlib
import hmac
import secrets
from typing import NamedTuple
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.responses import Response

from services.kit.errors import Forbidden, Unauthorized
from services.kit.settings import ServiceSettings
from services.kit.store.keys import ended_session_key
from services.kit.web.server import matches_any

COOKIE = "regrade_console"
LIFETIME_S = 12 * 3_600
"""One working day."""
PATH = "/console"


class Viewer(NamedTuple):
    """What a viewer may do. `signed_in` is false where the service has no keys."""

    may_operate: bool
    signed_in: bool


def viewer_of(settings: ServiceSettings, token: str, now: float) -> Viewer:
    """The viewer that a cookie's token belongs to; `now` is Unix seconds. Raises `Unauthorized`."""
    if not settings.caller_keys:
        return Viewer(may_operate=True, signed_in=False)
    expires, _, rest = token.partition(".")
    session_id = rest.partition(".")[0]
    is_operator = _is_signed(settings.operator_keys, token, expires, session_id)
    is_reader = _is_signed(settings.api_keys, token, expires, session_id)
    if not (is_operator or is_reader) or int(expires) <= now:
        raise Unauthorized("sign in with a key of this service")
    return Viewer(may_operate=is_operator, signed_in=True)


def issue_token(settings: ServiceSettings, key: str, now: float) -> str:
    """The cookie's token for a valid key. Raises `Unauthorized`."""
    if not matches_any(settings.caller_keys, key):
        raise Unauthorized("this service does not know that key")
    return _signed(key, str(int(now) + LIFETIME_S), secrets.token_hex(16))


async def end_session(redis: Redis, token: str) -> None:
    """Make a token that `viewer_of` accepts invalid for every replica."""
    await redis.set(ended_session_key(_session_id(token)), "1", ex=LIFETIME_S + 60)


async def has_ended(redis: Redis, token: str) -> bool:
    """Whether somebody signed out of the token's session."""
    return bool(await redis.exists(ended_session_key(_session_id(token))))


def set_session_cookie(response: Response, token: str, *, encrypted: bool) -> None:
    """Set a cookie that no script can read and no other site's page can send."""
    response.set_cookie(
        COOKIE, token, max_age=LIFETIME_S, path=PATH, httponly=True, samesite="strict", secure=encrypted
    )


async def require_same_origin(request: Request) -> None:
    """Refuse forms sent from another site's page. Browsers always send the origin of a form."""
    site = request.headers.get("sec-fetch-site")
    origin = urlsplit(request.headers.get("origin", ""))
    own = site == "same-origin" if site is not None else origin.netloc == request.headers.get("host")
    if not own:
        raise Forbidden("this form was not sent from the console's own page")


def _session_id(token: str) -> str:
    return token.split(".")[1]


def _signed(key: str, expires: str, session_id: str) -> str:
    message = f"regrade console until {expires}, session {session_id}".encode()
    return f"{expires}.{session_id}.{hmac.new(key.encode(), message, hashlib.sha256).hexdigest()}"


def _is_signed(keys: tuple[SecretStr, ...], token: str, expires: str, session_id: str) -> bool:
    """Compare with every key, each in constant time, so that timing does not tell which one matches."""
    tokens = [_signed(key.get_secret_value(), expires, session_id) for key in keys]
    matches = [hmac.compare_digest(expected.encode(), token.encode()) for expected in tokens]
    return any(matches)
