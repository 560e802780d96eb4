"""stderr that systemd's journal reads: it knows when and who; how important a line is say we.

`journalctl -p warning` is short only if warnings say that they are. Protocol: JOURNAL_STREAM in
systemd.exec(5), the prefix in sd-daemon(3).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
ERROR = "<3>"


def is_listening(environ: Mapping[str, str], fd: int) -> bool:
    """The variable is inherited by whoever is started, their output may go elsewhere."""
    try:
        seen = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{seen.st_dev}:{seen.st_ino}"


class Formatter(logging.Formatter):
    """Each line of a message with its priority, without time and name."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelno
        priority = next((number for least, number in _PRIORITIES if level >= least), _DEBUG)
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{priority}>{line}" for line in lines)
