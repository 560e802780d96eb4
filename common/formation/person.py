"""Who asks, as far as this machine knows; where there are certificates, theirs counts."""

from __future__ import annotations

import os


def who() -> str:
    """`user@host`, for the audit; a user without a name (a container's uid) counts too."""
    import getpass  # late: it is not light
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
