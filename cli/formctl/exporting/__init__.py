"""A formation in the words of other process managers. Pure: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from formctl.exporting import foreman, launchd, runit, supervisord, systemd, upstart
from formctl.exporting.work import Exported, Formation

WRITERS: Mapping[str, Callable[[Formation], Exported]] = {
    "systemd": systemd.write,
    "supervisord": supervisord.write,
    "runit": runit.write,
    "launchd": launchd.write,
    "upstart": upstart.write,
    "foreman": foreman.write,
}

__all__ = ["WRITERS", "Exported", "Formation"]
