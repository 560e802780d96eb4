"""What the kernel is told about our TCP connections."""

from __future__ import annotations

import os
import socket

from formation import cuts


def asks_by_itself(found: socket.socket) -> bool:
    return (
        found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        and found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == cuts.IDLE_S
        and found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == cuts.UNACKNOWLEDGED_MS
    )


def test_who_connects_to_a_listener_is_asked_for_and_so_are_our_own_connections() -> None:
    ours, local = socket.socket(), socket.socket(socket.AF_UNIX)
    with socket.create_server(("127.0.0.1", 0)) as listener, ours, local:
        ours.connect(listener.getsockname())
        before = len(os.listdir("/proc/self/fd"))
        cuts.notice_cuts()
        assert len(os.listdir("/proc/self/fd")) == before
        assert asks_by_itself(ours)
        assert not local.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        listener.accept()[0].close()
        with socket.create_connection(listener.getsockname()) as later:
            accepted, _ = listener.accept()
            with accepted:
                assert asks_by_itself(accepted)
                assert not asks_by_itself(later)
