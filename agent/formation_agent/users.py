"""Whom a process runs as: the names of a type, looked up on this machine. Changes nothing."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field

from formation_agent.processes import User


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """`user` None: no switching is needed. `env`: what a login would set for it."""

    user: User | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class NoAccount(Exception):
    """It cannot be run as that user; the message is for people."""


def account(user: str, group: str, *, our_uid: int, our_gid: int) -> Account:
    """`user`, `group`: name or number, "" is the agent's own. Raises `NoAccount`."""
    if not user and not group:
        return Account()
    entry = _user(user or str(our_uid))
    gid = _group(group) if group else (entry.pw_gid if user else our_gid)
    env = _environment(entry) if user else {}
    if (entry.pw_uid, gid) == (our_uid, our_gid):
        return Account(env=env)
    if our_uid != 0:
        raise NoAccount(
            f"cannot run as {_shown(user, group)}: the agent is not root;"
            " start it as root or as that user, or take it out of the type"
        )
    groups = tuple(sorted(set(os.getgrouplist(entry.pw_name, gid))))
    return Account(user=User(uid=entry.pw_uid, gid=gid, groups=groups, name=entry.pw_name), env=env)


def name_of(uid: int) -> str:
    """Its number, for one that has no name here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise NoAccount(f"user {name} does not exist on this host: create it first") from None


def _group(name: str) -> int:
    try:
        entry = grp.getgrgid(int(name)) if name.isdecimal() else grp.getgrnam(name)
    except (KeyError, OverflowError):
        raise NoAccount(f"group {name} does not exist on this host: create it first") from None
    return entry.gr_gid


def _environment(entry: pwd.struct_passwd) -> dict[str, str]:
    return {
        "HOME": entry.pw_dir or "/",
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell or "/bin/sh",
    }


def _shown(user: str, group: str) -> str:
    return " and ".join(
        f"{what} {name}" for what, name in (("user", user), ("group", group)) if name
    )
