"""`formation-agent join ADDRESS TOKEN`: makes this host a member of a cluster.

Also while the agent runs: it notices. What runs here is not touched.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from formation import grpcenv
from formation.addresses import address
from formation.credentials import CredentialError
from formation.identity import Role, TokenText, read_token
from formation.runtime import now_ms, pasted, utc
from formation.settings import ConfigError
from formation_agent import facts
from formation_agent.config import AgentConfig, load
from formation_agent.membership import DIRECTORY
from formation_agent.statedir import RefusedError, default_state_dir, prepare_state_dir

_USAGE = """Usage: formation-agent join ADDRESS TOKEN [OPTIONS]

Makes this host a member of the cluster whose coordinator is at ADDRESS. TOKEN, or - to read it
from standard input, is what formctl token create has printed. The options are those of
formation-agent itself; --name, --state-dir and --config count here."""
_EXIT_FAILED, _EXIT_USAGE = 1, 2


def main(argv: Sequence[str]) -> int:
    if "--help" in argv:
        sys.stdout.write(f"{_USAGE}\n")
        return 0
    try:
        wish = _read(argv)
    except ConfigError as error:
        return _failed(_EXIT_USAGE, *error.problems)
    from formation.enrolling import EnrolError

    grpcenv.prepare()
    if sys.stderr.isatty():
        sys.stderr.write(f"joining the cluster at {wish.address}…\n")
    try:
        sys.stdout.write(f"{_join(wish)}\n")
    except (CredentialError, EnrolError, RefusedError) as error:
        return _failed(_EXIT_FAILED, str(error))
    return 0


@dataclass(frozen=True, slots=True)
class _Wish:
    address: str
    token: TokenText
    config: AgentConfig


def _read(argv: Sequence[str]) -> _Wish:
    """Raises `ConfigError`."""
    words, options = argv[:2], argv[2:]
    if len(words) < len(("ADDRESS", "TOKEN")) or any(word.startswith("--") for word in words):
        raise ConfigError(["join: needs ADDRESS and TOKEN first; see join --help"])
    where, word = words
    try:
        token = read_token(pasted(word))
        checked = address(where)
    except ValueError as error:
        raise ConfigError([f"join: {error}"]) from error
    config = load(options, os.environ, lambda path: Path(path).read_text("utf-8"))
    return _Wish(checked, token, config)


def _join(wish: _Wish) -> str:
    """Returns what to say. Raises `CredentialError`, `EnrolError`, `RefusedError`."""
    from formation.enrolling import enrol

    state_dir = prepare_state_dir(wish.config.state_dir or default_state_dir())
    joining = enrol(
        wish.address,
        wish.token,
        wish.config.name,
        [Role.AGENT],
        now_ms(),
        default_name=facts.host_name(),
    )
    joined = asyncio.run(joining)
    who = joined.seen.identity
    joined.save(str(state_dir / DIRECTORY))
    until = utc(joined.seen.expires_at_ms)
    return (
        f"host {who.name} has joined cluster {who.cluster}; its certificate counts until {until} "
        "and renews itself"
    )


def _failed(code: int, *problems: str) -> int:
    for problem in problems:
        sys.stderr.write(f"formation-agent: {problem}\n")
    return code
