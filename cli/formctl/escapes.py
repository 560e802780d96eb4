"""The way out of a terminal session that is stuck: what is typed, looked through for it. Pure.

As ssh has it: the escape character at the beginning of a line, then `.` ends the session, `?` says
what there is, and the character itself is sent once. Anything else is sent as it was typed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

DEFAULT = "~"
NONE = "none"
_LINE_ENDS = b"\r\n"


class Wish(Enum):
    NOTHING = auto()
    END = auto()
    HELP = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Escapes:
    """`character`: one byte, or empty: there is no escape. `fresh`: a line begins; `open`: the
    character was typed there, and is held back until it is known what it means."""

    character: bytes = b"~"
    fresh: bool = True
    open: bool = False

    def read(self, typed: bytes) -> tuple[bytes, Wish, Escapes]:
        """What to send on, what is wished, and how it goes on. What follows END is dropped."""
        if not self.character:
            return typed, Wish.NOTHING, self
        state, sent, wish = self, bytearray(), Wish.NOTHING
        for number in typed:
            byte = bytes((number,))
            if state.open:
                if byte == b".":
                    return bytes(sent), Wish.END, replace(state, open=False)
                state = replace(state, open=False)
                if byte == b"?":
                    wish = Wish.HELP
                    continue
                if byte != self.character:
                    sent += self.character
            elif state.fresh and byte == self.character:
                state = replace(state, open=True)
                continue
            sent += byte
            state = replace(state, fresh=byte in _LINE_ENDS)
        return bytes(sent), wish, state


def help_text(character: str) -> str:
    return (
        f"{character}.  ends the session and what runs in it\r\n"
        f"{character}{character}  sends {character}\r\n"
        f"{character}?  says this\r\n"
        "(only at the beginning of a line)\r\n"
    )
