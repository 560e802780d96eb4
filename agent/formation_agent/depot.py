"""Keeps descriptors out of this process's table, in the queue of a socket, until they are wanted.

Every spawn copies the table and every exec closes the copy, so with the pipes of thousands of
children in it a start would cost more the more of them there are. Used by the keeper alone;
standard library only. It knows keys and descriptors, nothing of children.

What is in a queue counts against the limit of open files of all processes of this user together,
and past it no process of the user (but root) can pass descriptors on. So only a part of it is used.
"""

from __future__ import annotations

import array
import resource
import socket
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Of the kernel, in one message.
PACK_FDS_MAX = 253
_PART_OF_LIMIT = 16
_BUFFER_BYTES = 1 << 20
_INT_BYTES = array.array("i").itemsize


class Depot:
    """Has sockets only while something is in it."""

    def __init__(self) -> None:
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._packs: deque[list[tuple[str, int]]] = deque()
        self.held = 0  # how many

    def has_room(self, count: int) -> bool:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return limit == resource.RLIM_INFINITY or self.held + count <= limit // _PART_OF_LIMIT

    def put(self, pack: Sequence[tuple[str, Sequence[int]]]) -> bool:
        """Copies at most `PACK_FDS_MAX` descriptors. False: there is no room, and nothing was."""
        fds = [fd for _, several in pack for fd in several]
        if not self.has_room(len(fds)):
            return False
        try:
            if self._ends is None:
                self._ends = _ends()
            socket.send_fds(self._ends[0], [b"."], fds)
        except OSError:
            return False
        self._packs.append([(key, len(several)) for key, several in pack])
        self.held += len(fds)
        return True

    def take_all(self) -> Iterator[tuple[str, list[int]]]:
        """Everything, now the caller's; fewer when the table has no room for all."""
        while self._packs and self._ends is not None:
            pack = self._packs.popleft()
            fds = _received(self._ends[1])
            for key, count in pack:
                yield key, fds[:count]
                fds = fds[count:]
        self.held = 0
        for end in self._ends or ():
            end.close()
        self._ends = None


def _ends() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return ends


def _received(end: socket.socket) -> list[int]:
    # socket.recv_fds has no use for its flags, and without this one every child would get them.
    space = socket.CMSG_SPACE(PACK_FDS_MAX * _INT_BYTES)
    _, ancillary, _, _ = end.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    return list(fds)
