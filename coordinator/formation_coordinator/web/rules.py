"""What a browser's request must look like before anybody looks at what it asks. Pure.

Names are checked against rebinding of DNS, origins and tokens against requests that another
site's page makes with our cookie.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping

from formation.identity import Identity, Role

COOKIE = "formation"
CSRF_HEADER = "X-Formation-Csrf"
# Nothing but our own files runs or loads, nobody frames us, nothing is kept or guessed.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "formation",
}
_READING = frozenset({"GET", "HEAD"})


def cookie_name(*, https: bool) -> str:
    """The prefix makes browsers take it only over TLS, from us, for all of our paths."""
    return f"__Host-{COOKIE}" if https else COOKIE


def problem_with_request(
    method: str, headers: Mapping[str, str], hosts: Collection[str], *, https: bool
) -> str:
    """Why it is not answered, or "". `hosts`: what we are called, with ports."""
    host = headers.get("Host", "").lower()
    if host not in hosts:
        return f"this coordinator is not called {host[:100]!r}; --http-name says how it may be"
    site = headers.get("Sec-Fetch-Site", "none")
    if site not in ("none", "same-origin"):
        return "another site's page asked for this"
    if method in _READING:
        return ""
    origin = headers.get("Origin", "")
    if origin and origin.lower() != f"{'https' if https else 'http'}://{host}":
        return "another site's page asked for this"
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        return "a change is asked for with Content-Type: application/json"
    return ""


def problem_with_change(headers: Mapping[str, str], csrf: str) -> str:
    """Of somebody with a cookie, which browsers send along whoever asked."""
    if "Origin" not in headers:
        return "a change must say its Origin"
    given = headers.get(CSRF_HEADER, "").encode("utf-8", "surrogatepass")
    if not hmac.compare_digest(given, csrf.encode()):
        return f"{CSRF_HEADER} is missing or not that of this login"
    return ""


def allowed(who: Identity | None) -> dict[str, object]:
    """Which buttons make sense; whether a call is let through the guard alone decides. `apps`:
    patterns of those that may be changed."""
    operates = who is None or who.role is Role.OPERATOR
    deploys = who is not None and who.role is Role.DEPLOYER
    apps = ["*"] if operates else list(who.apps) if who and deploys else []
    return {"operate": operates, "apps": apps}


def is_bearer(header: str, token: str) -> bool:
    return hmac.compare_digest(header.encode("utf-8", "surrogatepass"), f"Bearer {token}".encode())


def hosts_of(address: str, names: Collection[str], *, local: bool) -> frozenset[str]:
    """What browsers may call us: our addresses and names, with the port."""
    host, _, port = address.rpartition(":")
    known = {host, *names, *(("localhost", "127.0.0.1", "[::1]") if local else ())}
    usual = {name for name in known if port in ("80", "443")}
    return frozenset(name.lower() for name in {f"{name}:{port}" for name in known} | usual)
