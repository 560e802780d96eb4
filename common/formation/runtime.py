"""What every program does with the outside world: clock, ids, logging, channels, shutdown.

Nothing here decides anything. Pure rooms may not import it: they get times and ids as arguments.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

from formation import journald
from formation.names import PING_EVERY_S, PING_TIMEOUT_S, SERVER_PINGS_TIMES

_RESERVED_ID_BYTES = 8
_PR_SET_DUMPABLE = 4
_STDERR = 2


def now_ms() -> int:
    """Wall clock, for display only."""
    return time.time_ns() // 1_000_000


def utc(at_ms: int) -> str:
    """For people: 2026-11-22 03:32:22 UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))


def monotonic_s() -> float:
    """For every duration and deadline."""
    return time.monotonic()


def new_id() -> str:
    """16 hexadecimal digits, never used twice."""
    return os.urandom(_RESERVED_ID_BYTES).hex()


def setup_logging(program: str, *, verbose: bool = False) -> None:
    """One line per event on stderr, for a terminal; for systemd's journal in its own terms."""
    handler = logging.StreamHandler(sys.stderr)
    is_journal = journald.is_listening(os.environ, _STDERR)
    handler.setFormatter(journald.Formatter() if is_journal else _line_formatter(program))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def complain(program: str, *problems: str) -> None:
    """Why it ends, on stderr, before or after there is a log."""
    is_journal = journald.is_listening(os.environ, _STDERR)
    start = journald.ERROR if is_journal else f"{program}: "
    for problem in problems:
        sys.stderr.write(f"{start}{problem}\n")


def _line_formatter(program: str) -> logging.Formatter:
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03dZ {program}[%(process)d] %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    formatter.converter = time.gmtime
    return formatter


def hide() -> None:
    """No core dump of this process, and no look into it by others of the same user: it holds keys
    and values of others. Linux only; raises OSError."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def client_channel_options(ping_every_s: float = PING_EVERY_S) -> list[tuple[str, int | str]]:
    """Dial options shared by every client: find a dead peer within 7 s instead of grpcio's 60 s."""
    return [
        ("grpc.keepalive_time_ms", round(ping_every_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(PING_TIMEOUT_S * 1000)),
        # Without this one a peer whose machine vanished is noticed only after a minute.
        ("grpc.http2.ping_timeout_ms", round(PING_TIMEOUT_S * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # How long one attempt may take: a few times there and back, also to another continent.
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", 64 * 1024 * 1024),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        # A Unix socket's path is no host name; servers want one.
        ("grpc.default_authority", "localhost"),
        ("grpc.enable_http_proxy", 0),
    ]


def server_channel_options(ping_every_s: float = PING_EVERY_S) -> list[tuple[str, int | str]]:
    """`ping_every_s`: how often clients ask. They are asked when nothing came for twice as long."""
    return [
        ("grpc.keepalive_time_ms", round(ping_every_s * SERVER_PINGS_TIMES * 1000)),
        ("grpc.keepalive_timeout_ms", round(PING_TIMEOUT_S * 1000)),
        ("grpc.http2.ping_timeout_ms", round(PING_TIMEOUT_S * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A host's whole table, or a part of a backup; who connects and says nothing is dropped.
        ("grpc.max_receive_message_length", 16 * 1024 * 1024),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        # Two programs must never share a port without knowing it.
        ("grpc.so_reuseport", 0),
    ]


def stop_event(
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> asyncio.Event:
    """An event that the first of these signals sets."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, event.set)
    return event


def pasted(word: str) -> str:
    """The word, or for "-" a line of standard input: what is secret need not be an argument."""
    return sys.stdin.readline().strip() if word == "-" else word


def runtime_dir() -> str:
    """Where this user's sockets and dev clusters live (not created here)."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base) and os.access(base, os.W_OK):
        return os.path.join(base, "formation")
    return f"/tmp/formation-{os.getuid()}"  # noqa: S108  users check its owner
