"""The trace that formctl is called in, which a change belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def in_the_middle_of(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Metadata of a call: W3C Trace Context, as TRACEPARENT has it; nothing for rubbish."""
    said = environ.get("TRACEPARENT", "")
    return (("traceparent", said),) if _TRACEPARENT.fullmatch(said) else ()
