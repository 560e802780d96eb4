"""Messages between keeper and brain: JSON over a Unix SOCK_SEQPACKET, descriptors beside it.

Both ends use this module, so it is bound to the keeper's rule: a few small modules of the standard
library and nothing else. It frames and never blocks; what a message means is the ends' business.

A message over `_INLINE_MAX` bytes (a big environment) travels in a memfd, the last descriptor of
its packet, since a packet must fit into the socket's buffer whole.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs the keeper a megabyte
    from collections.abc import Mapping, Sequence
    from typing import Any

    Message = dict[str, Any]

# The first message of the keeper carries it. A change that an older end cannot ignore raises it.
VERSION = 3
# What the keeper knows beyond its version's messages, for a brain that asks only for that.
STREAMS = "streams"  # a process gets the standard descriptors that come with its `spawn`
ABOUT = {"version": VERSION, "knows": [STREAMS]}
KEEPER_FD = 3
KEEPER_FD_VARIABLE = "FORMATION_KEEPER_FD"

# The keeper asks with `ping` whether the brain is there; its `pong` comes at once.
PING, PONG = "ping", "pong"

_INLINE_MAX = 100_000
_FDS_MAX = 8
_BUFFER_BYTES = 1 << 20


class Lost(ValueError):
    """A message whose content did not arrive; `head` is what is known of it: `op` and `key`."""

    def __init__(self, head: Message) -> None:
        super().__init__("no descriptor was free for its content")
        self.head = head


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends that do not block, with buffers as large as the kernel gives."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        prepare(end)
    return ends


def prepare(end: socket.socket) -> None:
    end.setblocking(False)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)


def send(end: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Raises BlockingIOError when the other end is behind, BrokenPipeError when it is gone.

    Any other OSError may pass: no descriptor or memory is free, too many are under way.
    """
    payload = json.dumps(message, separators=(",", ":")).encode()
    if len(payload) <= _INLINE_MAX:
        _send_packet(end, payload, fds)
        return
    memory = _memory_file(payload)
    try:
        head = {name: message[name] for name in ("op", "key") if name in message}
        _send_packet(end, json.dumps({**head, "memfd": len(payload)}).encode(), (*fds, memory))
    finally:
        os.close(memory)


def receive(end: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors (now ours, close-on-exec); None at the end of file.

    Raises BlockingIOError when there is none yet, ValueError (Lost, if it can be told which) for
    one that is lost. Fewer descriptors than were sent arrive when this process has no room for
    more.
    """
    space = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)
    try:
        data, ancillary, _, _ = end.recvmsg(_INLINE_MAX, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The other end died with our messages unread. Linux says so once, and before it hands out
        # what that end had sent; the end of file follows.
        data, ancillary, _, _ = end.recvmsg(_INLINE_MAX, space, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    received = list(fds)
    try:
        message = _message(data)
        if "memfd" in message:
            if not received:
                raise Lost(message)
            message = _message(_take_memory_file(received.pop(), message["memfd"]))
    except ValueError:
        for fd in received:
            os.close(fd)
        raise
    return message, received


def with_streams(message: Message, fds: Sequence[int]) -> Message:
    """What only descriptors can say is never taken from the words."""
    return {**message, STREAMS: fds} if fds or STREAMS in message else message


def held(fds: Sequence[int]) -> contextlib.ExitStack:
    """Closes them at its end."""
    stack = contextlib.ExitStack()
    for fd in fds:
        stack.callback(os.close, fd)
    return stack


def _message(data: bytes) -> Message:
    """Raises ValueError for what no end of ours has sent."""
    try:
        message = json.loads(data)
    except RecursionError:
        raise ValueError("a message that is nested without end") from None
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")  # noqa: TRY004  as of any other rubbish
    return message


def _send_packet(end: socket.socket, payload: bytes, fds: Sequence[int]) -> None:
    ancillary = []
    if fds:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)))
    end.sendmsg([payload], ancillary)


def _memory_file(payload: bytes) -> int:
    memory = os.memfd_create("formation-message", os.MFD_CLOEXEC)
    rest = memoryview(payload)
    while rest:
        rest = rest[os.write(memory, rest) :]
    return memory


def _take_memory_file(memory: int, size: object) -> bytes:
    try:
        if not isinstance(size, int) or not 0 <= size <= os.fstat(memory).st_size:
            raise ValueError("a message's content is not as long as it says")
        return os.pread(memory, size, 0)
    finally:
        os.close(memory)
