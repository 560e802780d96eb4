"""Which processes of a tree still live, for people who wait for its end. Looks only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from formation_agent import cgroups, procfs
from formation_agent.children import MARK
from formation_agent.deadman import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Living:
    """`name` as `ps` shows it without arguments."""

    pid: int
    name: str


def of_tree(tree: Tree, keeper: int, others: Collection[int]) -> tuple[Living, ...]:
    """`others`: the main processes of other trees, which the keeper has as children too.

    What cannot be looked at now is left out.
    """
    with contextlib.suppress(OSError):
        pids = _in_cgroup(tree) if tree.cgroup else _of_keeper(tree, keeper, others)
        found = ((pid, procfs.name(pid)) for pid in sorted(set(pids)))
        return tuple(Living(pid=pid, name=name) for pid, name in found if name is not None)
    return ()


def _in_cgroup(tree: Tree) -> Iterable[int]:
    try:
        return cgroups.members(tree.cgroup)
    except FileNotFoundError:
        return ()


def _of_keeper(tree: Tree, keeper: int, others: Collection[int]) -> Iterable[int]:
    """Its main process and its orphans, which are the keeper's children, and all below these.

    So no other process of this machine has to be looked at.
    """
    ours = [pid for pid in procfs.children(keeper) if pid not in others and _belongs(pid, tree)]
    for pid in ours:  # grows while we go
        ours += procfs.children(pid)
    return ours


def _belongs(pid: int, tree: Tree) -> bool:
    if pid == tree.pid or procfs.session(pid) == tree.pid:
        return True
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == tree.pid:
            return True
    if tree.mark is None:
        return False
    return procfs.variable_in(procfs.awaited_environment(pid), MARK.encode()) == tree.mark
