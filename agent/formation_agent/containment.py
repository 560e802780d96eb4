"""The keeper's cgroups: where they are made, going into one and back. Standard library only.

    <own>/formation-<name>/<key>    one for each tree, with its limits
    <own>/agent                     keeper and brain, where the kernel wants it so

A cgroup that has processes can give controllers to those below it only at the machine's root, so
where there are controllers keeper and brain move to `agent`, if nobody else is there with them.

Spawning: the keeper enters the child's new, still unlimited and empty cgroup, spawns and comes
back; then the limits are written. It never enters one in which something lives: a child may freeze,
limit or fill its own.
"""

from __future__ import annotations

import errno
import os
import time

from formation_agent import cgroups
from formation_agent.brainprocess import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_LEAF = "agent"
_TRIAL = "trial%"  # no key's name
_OF_TREES = "formation-"
_MOVE_ROUNDS = 5
_LEFTOVERS_S = 5.0
_DELEGATE = "run it as its own service with Delegate=yes"


class CgroupError(Exception):
    """Its text is one line for people."""


class Containment:
    """Before `contain`, and where it failed, `path` is "" and trees have no cgroup.

    `wanted`: the controllers to have below `path`.
    """

    __slots__ = (
        "_home",
        "_home_door",
        "_leaf",
        "_said",
        "_wanted",
        "controllers",
        "path",
        "problem",
    )

    def __init__(self, wanted: Collection[str] = cgroups.CONTROLLERS) -> None:
        self._wanted = set(wanted)
        self.path = ""
        self.controllers: tuple[str, ...] = ()
        self.problem = ""
        self._home = ""  # the keeper's own
        self._home_door = -1  # its cgroup.procs, open: who starts many comes back often
        self._leaf = ""
        self._said: set[str] = set()

    # --- making ---------------------------------------------------------------------------------

    def contain(self, name: str, ours: Collection[int], keep: Collection[str]) -> None:
        """Makes what is needed and ends what an earlier keeper left, but not the cgroups `keep`.

        `ours`: keeper and brain. Never raises; `path`, `controllers` and `problem` say how it went.
        """
        self.path, self.controllers, self.problem = "", (), ""
        try:
            base, shown = self._find()
            path = f"{base}/{_OF_TREES}{cgroups.safe_name(name)}"
            _make(path, shown)
            self.controllers, self.problem = self._enable(base, path, shown, set(ours))
            self._try(path, shown)
        except (CgroupError, OSError) as error:
            self.controllers, self.problem = (), f"processes get no cgroups: {error}"
            return
        self.path = path
        self._end_leftovers(keep)

    def _find(self) -> tuple[str, str]:
        """The cgroup that holds all of this agent, and its path for people."""
        own, shown = cgroups.own()
        if not own:
            raise CgroupError("this machine has no cgroup v2, or it is not mounted here")
        self._live_in(own)
        above, leaf = os.path.split(own)
        # An agent before us, or systemd (DelegateSubgroup=), has moved us there. A cgroup that
        # happens to have this name stands beside processes, or below the machine's root.
        if leaf == _LEAF and _is_ours_too(above):
            own, shown = above, os.path.dirname(shown)
        self._leaf = f"{own}/{_LEAF}"
        return own, shown

    def _try(self, path: str, shown: str) -> None:
        """Where we may make a cgroup we may still not be allowed to put processes into it."""
        trial = f"{path}/{_TRIAL}"
        _make(trial, shown)
        try:
            self.enter(trial)
            if not self.leave():
                raise CgroupError(f"the keeper cannot come back to {shown}")
        except OSError as error:
            raise CgroupError(_why_not(error, shown)) from error
        finally:
            discard(trial)

    def _end_leftovers(self, keep: Collection[str]) -> None:
        left = [path for path in _children(self.path) if path not in keep]
        living = [
            path for path in left if _kill(path)
        ]  # all at once, before the first is waited for
        deadline_s = time.monotonic() + _LEFTOVERS_S
        for path in left:
            if not cgroups.kill_and_remove(path, deadline_s - time.monotonic()):
                self._say_once(f"cannot end what an earlier agent left in the cgroup {path}")
        if living:
            say(f"ended what an earlier agent had left in {len(living)} cgroups")

    # --- controllers ----------------------------------------------------------------------------

    def _enable(
        self, base: str, path: str, shown: str, ours: set[int]
    ) -> tuple[tuple[str, ...], str]:
        """Those that work for trees, and why not all."""
        wanted = self._wanted
        try:
            there = wanted & cgroups.words(base, "cgroup.controllers")
            problems = [_missing(wanted - there, shown)] if wanted - there else []
            if there:
                problems += self._give(base, path, shown, there, ours)
            works = there & cgroups.words(path, "cgroup.subtree_control")
        except OSError as error:
            return (), f"limits cannot be enforced: {_why_not(error, shown)}"
        return tuple(sorted(works)), "; ".join(problems)

    def _give(
        self, base: str, path: str, shown: str, controllers: set[str], ours: set[int]
    ) -> list[str]:
        if not cgroups.is_root(base) and not self._move_out(base, ours):
            others = f"other processes share the agent's cgroup {shown}"
            return [f"{_limits(controllers)} cannot be enforced: {others} ({_DELEGATE})"]
        problems = []
        for controller in sorted(controllers):
            try:
                cgroups.enable(base, {controller})
                cgroups.enable(path, {controller})
            except OSError as error:
                why = _why_not(error, shown)
                problems.append(f"{_limits({controller})} cannot be enforced: {why}")
        return problems

    def _move_out(self, base: str, ours: set[int]) -> bool:
        """Keeper and brain go to their leaf; False when they are not alone."""
        for _ in range(_MOVE_ROUNDS):
            inside = _processes(base)
            if not inside:
                return True
            if not inside <= ours:
                return False
            if not os.path.isdir(self._leaf):
                os.mkdir(self._leaf)
            for pid in inside:
                _move(self._leaf, pid)
            self._live_in(self._leaf)
        return False

    # --- one tree's -----------------------------------------------------------------------------

    def make(self, key: str) -> str:
        """A new, empty cgroup; "" when there is none for this tree, which is said once."""
        if not self.path:
            return ""
        path = f"{self.path}/{cgroups.safe_name(key)}"
        try:
            os.mkdir(path)
        except FileExistsError:
            return self._make_anew(path)
        except OSError as error:
            self.without(_why_not(error, self.path))
            return ""
        return path

    def _make_anew(self, path: str) -> str:
        try:
            cgroups.remove(path)
            os.mkdir(path)
        except OSError as error:
            self.without(_why_not(error, path))
            return ""
        return path

    def without(self, why: str) -> None:
        """Says, once, that a tree gets no cgroup."""
        self._say_once(f"a process gets no cgroup of its own: {why}")

    def enter(self, path: str) -> None:
        """Raises OSError, and we are where we were."""
        cgroups.enter(path)

    def leave(self) -> bool:
        """False when the keeper has to stay in the child's: then that one is never limited.

        Otherwise the child's limits would hold for the keeper, and its KILL would reach it.
        """
        try:
            if self._home_door < 0:
                self._home_door = cgroups.door(self._home)
            cgroups.enter_by(self._home_door)
        except OSError as error:
            return self._leave_for_leaf(error)
        return True

    def _live_in(self, path: str) -> None:
        self._home = path
        if self._home_door >= 0:
            os.close(self._home_door)
            self._home_door = -1

    def _leave_for_leaf(self, why: OSError) -> bool:
        """Somebody may have enabled controllers where we were: then only leaves take processes."""
        try:
            if not os.path.isdir(self._leaf):
                os.mkdir(self._leaf)
            cgroups.enter(self._leaf)
        except OSError:
            self.path = ""
            say(
                f"the keeper cannot leave a child's cgroup for {self._home}: {why.strerror}; "
                "from now on processes get none of their own"
            )
            return False
        self._live_in(self._leaf)
        return True

    def limit(self, path: str, limits: dict[str, float]) -> None:
        for problem in cgroups.limit(path, limits):
            say(f"{problem} in {path}")

    def close(self) -> None:
        """At the keeper's end."""
        if self.path:
            for path in _children(self.path):
                discard(path)
            discard(self.path)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text)


def _is_ours_too(above: str) -> bool:
    try:
        return os.access(above, os.W_OK) and not cgroups.is_root(above) and not _processes(above)
    except OSError:
        return False


def _kill(path: str) -> bool:
    """Whether there was something to kill."""
    try:
        lives = cgroups.is_populated(cgroups.events(path))
        if lives:
            cgroups.kill(path)
        return lives
    except OSError:
        return False


def discard(path: str) -> None:
    """Removes a cgroup if nothing lives in it."""
    try:
        cgroups.remove(path)
    except OSError:
        return  # the next start ends what is left


def _make(path: str, shown: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    except OSError as error:
        raise CgroupError(_why_not(error, shown)) from error


def _move(path: str, pid: int) -> None:
    try:
        cgroups.enter(path, pid)
    except ProcessLookupError:
        return


def _processes(path: str) -> set[int]:
    return {int(word) for word in cgroups.words(path, "cgroup.procs")}


def _children(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _limits(controllers: Collection[str]) -> str:
    *first, last = sorted(controllers)
    return f"{', '.join(first)} and {last} limits" if first else f"{last} limits"


def _missing(controllers: Collection[str], shown: str) -> str:
    return f"{_limits(controllers)} cannot be enforced: no such cgroup v2 controllers in {shown}"


def _why_not(error: OSError, shown: str) -> str:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"no permission in the cgroup {shown} ({_DELEGATE})"
    if error.errno == errno.EROFS:
        return f"the cgroups are read-only here ({shown})"
    if error.errno in {errno.EAGAIN, errno.ENOSPC}:
        return f"no more cgroups are allowed in {shown}"
    return f"{shown}: {error.strerror}"
