"""How to run a command line of a Procfile: directly, or through a shell. Pure.

`plan` reads the line as POSIX sh does, as far as it must to tell three cases apart:

* plain words, quoted or not: executed directly, the words being those that sh would pass;
* one simple command that sh has to prepare (variables, redirections, globs, assignments): sh gets
  the same line with `exec` before the program, so that no shell stays between us and it;
* anything else (operators, keywords, builtins, what we do not understand): sh gets the line as is.

When in doubt it is the last case, which is always right, only with a shell in between.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

SHELL = "/bin/sh"

# Words that mean something else to a shell than to execve. Programs of the same name may exist;
# the shell's own behave differently in places (dash's echo), and people expect the shell's.
_WORDS_OF_SHELLS = """
    ! . : [ [[ { } alias bg bind break builtin caller case cd chdir command compgen complete
    continue coproc declare dirs disown do done echo elif else enable esac eval exec exit export
    false fc fg fi for function getopts hash help history if in jobs kill let local logout mapfile
    popd printf pushd pwd read readarray readonly return select set shift shopt source suspend test
    then time times trap true type typeset ulimit umask unalias unset until wait while
"""
_SHELL_WORDS = frozenset(_WORDS_OF_SHELLS.split())
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_REDIRECTION = re.compile(r"<>|<&|>>|>&|>\||[<>](?![<>(])")
# $NAME, $1, $?, ${…} and $(…) without anything inside that would need a second look.
_EXPANSION = re.compile(
    r"""\$(?:[A-Za-z_][A-Za-z0-9_]*|[0-9@*\#?$!-]|\{[^{}()'"`\\$\n]+\}|\([^()'"`\\$\#\n]+\))"""
)
_BLANK = " \t"
_NEEDS_SHELL = "*?[]{}~"  # globs, braces (where sh is bash) and home directories
_OPERATORS = ";&|()`\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`program` is the word that must be found in PATH, when it can be known beforehand."""

    argv: tuple[str, ...]
    program: str | None


def plan(command: str) -> Command:
    """Never raises: what cannot be read is left to sh, which says what is wrong with it."""
    line = _stripped(command)
    try:
        words = _Reader(line).words()
    except _NotSimple:
        return _whole(command)
    assignments = [word.assigns for word in words if word.assigns]
    arguments = [word for word in words if not (word.assigns or word.redirected)]
    if not arguments:
        return _whole(command)
    first = arguments[0]
    if first.text == "exec" and not assignments:
        return _after_exec(line, words, arguments)
    if first.text in _SHELL_WORDS or not (first.literal or "/" in first.text):
        return _whole(command)  # or may turn out to be one of them
    if len(arguments) == len(words) and all(word.literal for word in words):
        return Command(argv=tuple(word.text for word in words), program=first.text)
    program = first.text if first.literal and "PATH" not in assignments else None
    return _through_shell(f"{line[: first.start]}exec {line[first.start :]}", program)


def find_program(
    program: str, path: str, cwd: str, is_executable: Callable[[str], bool]
) -> str | None:
    """The file that execvp would run for `program` under this PATH, in this directory."""
    if "/" in program:
        candidates = [program]
    else:
        candidates = [f"{directory or '.'}/{program}" for directory in path.split(":")]
    for candidate in candidates:
        file = candidate if candidate.startswith("/") else f"{cwd}/{candidate}"
        if is_executable(file):
            return file
    return None


def _through_shell(line: str, program: str | None) -> Command:
    return Command(argv=(SHELL, "-c", line), program=program)


def _whole(line: str) -> Command:
    return _through_shell(line, None)


def _after_exec(line: str, words: list[_Word], arguments: list[_Word]) -> Command:
    """`exec x` runs the program x even where the shell has a builtin of that name."""
    if len(arguments) == 1 or arguments[1].text.startswith("-") or not arguments[1].literal:
        return _whole(line)
    program = arguments[1].text
    if len(arguments) == len(words) and all(word.literal for word in words):
        return Command(argv=tuple(word.text for word in arguments[1:]), program=program)
    return _through_shell(line, program)


def _stripped(command: str) -> str:
    line = command.lstrip(" \t\n")
    shorter = line.rstrip(" \t\n")
    return line if shorter.endswith("\\") else shorter  # an escaped blank at the end is a word


class _NotSimple(Exception):
    """More than one simple command, or something that this reader does not understand."""


@dataclass(slots=True, kw_only=True)
class _Word:
    """`text` is what sh passes on when the word is literal, else what of it is certain."""

    start: int
    text: str = ""
    expands: bool = False  # holds $…
    globs: bool = False
    quoted: bool = False
    redirected: bool = False  # a redirection or its target, no argument
    assigns: str | None = None

    @property
    def literal(self) -> bool:
        return not (self.expands or self.globs or self.assigns or self.redirected)


@dataclass(slots=True)
class _Reader:
    """Splits one line into words as sh does; `_NotSimple` at the first thing beyond that."""

    line: str
    position: int = 0
    word: _Word | None = None
    target_next: bool = False
    found: list[_Word] = field(default_factory=list)

    def words(self) -> list[_Word]:
        while self.position < len(self.line):
            if self.line[self.position] == "#" and self.word is None:
                self._comment()
            else:
                self._step(self.line[self.position])
        self._end_word()
        if self.target_next:
            raise _NotSimple
        return self.found

    def _step(self, char: str) -> None:
        if char in _BLANK:
            self._end_word()
            self.position += 1
        elif char in _OPERATORS:
            raise _NotSimple
        elif char in "<>":
            self._redirection()
        elif char == "'":
            self._single_quotes()
        elif char == '"':
            self._double_quotes()
        elif char == "\\":
            self._backslash()
        elif char == "$":
            self._expansion()
        else:
            self._plain(char)

    def _current(self) -> _Word:
        if self.word is None:
            self.word = _Word(start=self.position, redirected=self.target_next)
            self.target_next = False
            self._note_assignment(self.word)
        return self.word

    def _note_assignment(self, word: _Word) -> None:
        """Only before the program is `A=x` an assignment."""
        match = _ASSIGNMENT.match(self.line, self.position)
        before = [earlier for earlier in self.found if not earlier.redirected]
        if match and not word.redirected and all(earlier.assigns for earlier in before):
            word.assigns = match[1]

    def _end_word(self) -> None:
        if self.word is not None:
            self.found.append(self.word)
            self.word = None

    def _comment(self) -> None:
        if "\n" in self.line[self.position :]:
            raise _NotSimple
        self.position = len(self.line)

    def _plain(self, char: str) -> None:
        word = self._current()
        word.text += char
        word.globs = word.globs or char in _NEEDS_SHELL
        self.position += 1

    def _single_quotes(self) -> None:
        word = self._current()
        end = self.line.find("'", self.position + 1)
        if end < 0:
            raise _NotSimple
        word.quoted = True
        word.text += self.line[self.position + 1 : end]
        self.position = end + 1

    def _double_quotes(self) -> None:
        self._current().quoted = True
        self.position += 1
        while (char := self._peek()) != '"':
            if char in {"", "`"}:  # no end, or a command inside
                raise _NotSimple
            if char == "$":
                self._expansion()
            elif char == "\\":
                self._backslash_in_quotes()
            else:
                self._current().text += char
                self.position += 1
        self.position += 1

    def _peek(self) -> str:
        return self.line[self.position : self.position + 1]

    def _backslash(self) -> None:
        following = self.line[self.position + 1 : self.position + 2]
        # sh joins lines before it looks for words, so inside of one anything may come of it.
        if not following or (following == "\n" and self.word is not None):
            raise _NotSimple
        if following != "\n":
            word = self._current()
            word.quoted = True
            word.text += following
        self.position += 2

    def _backslash_in_quotes(self) -> None:
        following = self.line[self.position + 1 : self.position + 2]
        if following != "\n":
            self._current().text += following if following in {*'$`"\\'} else f"\\{following}"
        self.position += 2

    def _expansion(self) -> None:
        word = self._current()
        match = _EXPANSION.match(self.line, self.position)
        if match is not None:
            word.expands = True
            self.position = match.end()
        elif self.line[self.position + 1 : self.position + 2] in {"(", "{", "'", '"', "`", "\\"}:
            raise _NotSimple
        else:  # a dollar that means itself
            word.text += "$"
            self.position += 1

    def _redirection(self) -> None:
        match = _REDIRECTION.match(self.line, self.position)
        if match is None or self.target_next:
            raise _NotSimple
        word = self.word
        if word is not None and word.text.isdigit() and not (word.quoted or word.expands):
            word.redirected = True  # the 2 of 2>
        self._end_word()
        self.found.append(_Word(start=self.position, text=match[0], redirected=True))
        self.position = match.end()
        self.target_next = True
