"""`formation-coordinator init` and `join`: how a coordinator comes to its certificate and keys."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formation import contexts, credentials, grpcenv, pki
from formation.addresses import address, words
from formation.credentials import CredentialError
from formation.identity import Identity, Role, problem_with_name, read_token
from formation.names import HOST_NAME
from formation.runtime import new_id, now_ms, pasted, utc
from formation.settings import (
    ConfigError,
    Program,
    Setting,
    filled,
    help_text,
    load,
)
from formation_coordinator import keyring
from formation_coordinator.config import default_identity_dir, prefix

_EXIT_FAILED, _EXIT_USAGE = 1, 2
ETCD_PASSWORD = "etcd-password"  # noqa: S105  a file's name


def _name(text: str) -> str:
    if wrong := problem_with_name(text):
        raise ValueError(wrong)
    return text


def _context(text: str) -> str:
    if not contexts.CONTEXT_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a context: letters, digits, '_' and '-' are")
    return text


_DIRECTORY = Setting(name="identity-dir", field="directory", parse=filled, meta="DIR",
                     help="where they go (root: /var/lib/formation-coordinator)")  # fmt: skip
_ID = Setting(name="id", field="id", parse=_name, meta="NAME",
              help="name of this coordinator (its host name)")  # fmt: skip
INIT = Program(
    name="formation-coordinator init",
    purpose="Makes a new cluster's authority, this coordinator's certificate, and an operator's.",
    prefix="FORMATION_COORDINATOR_",
    settings=(
        _DIRECTORY,
        _ID,
        Setting(name="advertise", field="advertise", parse=address, meta="ADDR",
                help="where others will reach this coordinator (127.0.0.1:7100)"),
        Setting(name="operator", field="operator", parse=_name, meta="NAME",
                help="who the first operator is (you)"),
        Setting(name="context", field="context", parse=_context, meta="NAME",
                help="what formctl calls this cluster, for you (default)"),
        Setting(name="etcd", field="etcd", parse=words, meta="URL", repeats=True,
                help="make a user in that etcd who may only touch our keys; needs root's password"),
        Setting(name="etcd-root-password-file", field="root_password_file", parse=filled,
                meta="FILE", help="the password of etcd's user root, on its first line"),
        Setting(name="etcd-user", field="etcd_user", parse=_name, meta="NAME",
                help="what the user that is made is called (formation)"),
        Setting(name="etcd-prefix", field="etcd_prefix", parse=prefix, meta="/NAME/",
                help="where this cluster's keys start (/formation/)"),
        Setting(name="etcd-ca", field="etcd_ca", parse=filled, meta="FILE",
                help="CA that signed etcd's certificates, for https endpoints"),
        Setting(name="etcd-cert", field="etcd_cert", parse=filled, meta="FILE",
                help="our certificate towards etcd"),
        Setting(name="etcd-key", field="etcd_key", parse=filled, meta="FILE",
                help="the key of --etcd-cert"),
        Setting(name="cluster", field="cluster", parse=_name, meta="ID",
                help="give certificates to a cluster that exists: formctl version tells its id"),
    ),
)  # fmt: skip
JOIN = Program(
    name="formation-coordinator join",
    purpose="Makes this machine another coordinator of a cluster.",
    prefix="FORMATION_COORDINATOR_",
    settings=(_DIRECTORY, _ID),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """What `init` is told; "" is chosen."""

    directory: str = ""
    id: str = ""
    advertise: str = "127.0.0.1:7100"
    operator: str = ""
    context: str = "default"
    cluster: str = ""
    etcd: tuple[str, ...] = ()
    root_password_file: str = ""
    etcd_user: str = "formation"
    etcd_prefix: str = "/formation/"
    etcd_ca: str = ""
    etcd_cert: str = ""
    etcd_key: str = ""


def main(argv: Sequence[str]) -> int:
    """`argv` begins with init or join."""
    work: Callable[[Sequence[str]], str] = _init if argv[0] == "init" else _join
    program = INIT if argv[0] == "init" else JOIN
    if "--help" in argv:
        sys.stdout.write(f"{help_text(program)}\n")
        return 0
    try:
        sys.stdout.write(f"{work(argv[1:])}\n")
    except ConfigError as error:
        return _failed(_EXIT_USAGE, *error.problems)
    except (CredentialError, _FailedError) as error:
        return _failed(_EXIT_FAILED, str(error))
    return 0


class _FailedError(Exception):
    """One line."""


def _failed(code: int, *problems: str) -> int:
    for problem in problems:
        sys.stderr.write(f"formation-coordinator: {problem}\n")
    return code


def _settings(program: Program, argv: Sequence[str]) -> dict[str, Any]:
    """Of the coordinator's own variables those that mean something here."""
    meant = {program.prefix + name.upper().replace("-", "_") for name in program.by_name()}
    environ = {name: value for name, value in os.environ.items() if name in meant}
    return load(program, argv, environ, lambda path: Path(path).read_text("utf-8"))


def _host_name() -> str:
    name = socket.gethostname()
    if not HOST_NAME.fullmatch(name):
        raise _FailedError(f"this machine's name {name!r} is of no use here; give --id")
    return name


def _free(directory: str) -> str:
    if credentials.exists(directory) or os.path.exists(os.path.join(directory, keyring.FILE)):
        raise _FailedError(f"{directory}: there is an identity already; nothing was changed")
    return directory


# -- init ------------------------------------------------------------------------------------------


def _init(argv: Sequence[str]) -> str:
    wish = Founded(**_settings(INIT, argv))
    if bool(wish.etcd) != bool(wish.root_password_file):
        raise ConfigError(["--etcd and --etcd-root-password-file: give both or neither"])
    directory = _free(wish.directory or default_identity_dir())
    person = wish.operator or os.environ.get("SUDO_USER") or getpass.getuser()
    persons = contexts.identity_dir(os.environ, wish.context)
    if credentials.exists(persons):
        raise _FailedError(f"{persons}: you have an identity of that name; give another --context")
    now, cluster = now_ms(), wish.cluster or new_id()
    authority = pki.new_authority(now)

    def give(place: str, role: Role, name: str) -> pki.Seen:
        key = pki.new_key()
        who = Identity(cluster=cluster, role=role, name=name)
        signed = pki.issue(authority, who, key.public_key(), now)
        credentials.save_authorities(place, (authority.certificate,))
        credentials.save_coordinators(place, (wish.advertise,))
        credentials.save_identity(place, key, signed.certificate)
        return signed.seen

    etcd = _make_etcd_user(wish, directory)
    keyring.save(directory, keyring.Keyring(authorities=(authority,)))
    ours = give(directory, Role.COORDINATOR, wish.id or _host_name())
    theirs = give(persons, Role.OPERATOR, person)
    current = _add_context(wish)
    lines = [
        f"cluster {cluster}: authority, certificate of coordinator {ours.identity.name} and keys",
        f"are in {directory}; keep a copy of it where nobody else can read it",
        f"{theirs.identity} can use formctl here until {utc(theirs.expires_at_ms)}",
        *etcd.said,
        f"now start it: {_program(directory)} --listen {wish.advertise} {etcd.flags}",
        "then let hosts join: formctl token create --role agent",
    ]
    if not current:
        lines[2] += f", with FORMATION_CONTEXT={wish.context}"
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Etcd:
    """What was done there, for people, and the flags that a coordinator needs for it."""

    said: tuple[str, ...] = ()
    flags: str = "--etcd …"


def _make_etcd_user(wish: Founded, directory: str) -> _Etcd:
    """Its password is kept beside our keys."""
    if not wish.etcd:
        return _Etcd()
    from formation_coordinator.store.endpoints import TlsFiles
    from formation_coordinator.store.login import Login, LoginError, make_user

    grpcenv.prepare()
    root = Login(user="root", password=credentials.read_password(wish.root_password_file))
    made = Login(user=wish.etcd_user, password=secrets.token_urlsafe(24))
    tls = TlsFiles(ca=wish.etcd_ca, cert=wish.etcd_cert, key=wish.etcd_key)
    try:
        making = make_user(
            wish.etcd, tls if tls != TlsFiles() else None, root, made, wish.etcd_prefix
        )
        is_on = asyncio.run(making)
    except (LoginError, ValueError) as error:
        raise _FailedError(str(error)) from error
    credentials.write_private(directory, ETCD_PASSWORD, f"{made.password}\n".encode())
    path = os.path.join(directory, ETCD_PASSWORD)
    said = [f"etcd: user {made.user} may read and write below {wish.etcd_prefix} and nothing else"]
    if not is_on:
        said.append("etcd: authentication is off there, so anybody may: etcdctl auth enable")
    flags = f"--etcd {','.join(wish.etcd)} --etcd-user {made.user} --etcd-password-file {path}"
    return _Etcd(tuple(said), flags)


def _add_context(wish: Founded) -> bool:
    try:
        return contexts.add(os.environ, wish.context, (wish.advertise,))
    except (OSError, ValueError) as error:
        path = contexts.context_path(os.environ)
        raise _FailedError(f"{path}: {error}") from error


# -- join ------------------------------------------------------------------------------------------


def _join(argv: Sequence[str]) -> str:
    given, options = argv[:2], argv[2:]
    if len(given) < len(("ADDRESS", "TOKEN")) or any(word.startswith("--") for word in given):
        raise ConfigError(["join: needs ADDRESS and TOKEN first; see join --help"])
    where, word = given
    try:
        token = read_token(pasted(word))
        where = address(where)
    except ValueError as error:
        raise ConfigError([f"join: {error}"]) from error
    told = _settings(JOIN, options)
    directory = _free(told.get("directory") or default_identity_dir())
    from formation.enrolling import EnrolError, enrol

    grpcenv.prepare()
    try:
        joining = enrol(
            where,
            token,
            told.get("id", ""),
            [Role.COORDINATOR],
            now_ms(),
            default_name=_host_name(),
        )
        joined = asyncio.run(joining)
        keyring.save(directory, keyring.decode(joined.keyring))
        joined.save(directory)
    except (EnrolError, ValueError) as error:
        raise _FailedError(str(error)) from error
    who = joined.seen.identity
    return (
        f"coordinator {who.name} has joined cluster {who.cluster}; its certificate and keys are in "
        f"{directory}\nnow start it, on the same etcd: {_program(directory)} --listen … --etcd …"
    )


def _program(directory: str) -> str:
    """What starts a coordinator with the certificate that lies there."""
    if directory == default_identity_dir():
        return "formation-coordinator"
    return f"formation-coordinator --identity-dir {directory}"
