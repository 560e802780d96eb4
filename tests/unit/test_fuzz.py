"""Rubbish at every door: an answer in words or a value, never a traceback and never a hang."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation import manifest, pki, procfile
from formation.identity import AUTHORITY_KEY_BYTES
from formation.settings import ConfigError
from formation_agent import config as agent_config
from formation_agent import link
from formation_coordinator import config as coordinator_config
from formation_coordinator import keyring
from formctl import envfile

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["op", "key", "memfd", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)
# As a file may look: its own signs, and anything else between them.
lines = st.text(
    st.sampled_from(string.ascii_letters + "=:#$'\"\\\n\t {}[]().-_\0\x1b\r\u2028é"), max_size=200
)


def problems_of(parse: Callable[[str], object], error: type[Exception], text: str) -> list[str]:
    """What it says of the text: one line each; anything but its own exception comes through."""
    try:
        parse(text)
    except error as said:
        return list(getattr(said, "problems", ()))
    return []


@given(st.text(max_size=300) | lines)
def test_a_procfile_and_a_manifest(text: str) -> None:
    said = problems_of(procfile.parse, procfile.ProcfileError, text)
    said += problems_of(manifest.parse, manifest.ManifestError, text)
    assert not any("\n" in problem for problem in said)


@pytest.mark.parametrize("nested", ["a=" + "[" * 20_000, "a=" + "{a=" * 20_000])
def test_what_is_nested_without_end(nested: str) -> None:
    with pytest.raises(manifest.ManifestError, match="nested too deeply"):
        manifest.parse(nested)
    for read in (agent_config.load, coordinator_config.read_config):
        with pytest.raises(ConfigError, match="nested too deeply"):
            read(["--config", "c.toml"], {}, lambda _: nested)
    with pytest.raises(ValueError, match="without end"):
        sent(b"[" * 20_000)
    with pytest.raises(ValueError, match="not a keyring"):
        keyring.decode(b"[" * 20_000)


@given(st.text(max_size=300) | lines)
def test_an_env_file(text: str) -> None:
    said = problems_of(envfile.parse, envfile.EnvFileError, text)
    assert all(problem.startswith(".env:") for problem in said)


@given(st.binary(max_size=300))
def test_certificates_requests_keys_and_keyrings(data: bytes) -> None:
    for read in (pki.read_certificate, pki.requested_key, pki.read_key):
        with contextlib.suppress(pki.CertificateError):
            read(data)
    with contextlib.suppress(ValueError):
        keyring.decode(data)
    with contextlib.suppress(pki.CertificateError):
        pki.key_of(data[:AUTHORITY_KEY_BYTES])


@given(json_values)
def test_a_keyring_that_is_json(value: object) -> None:
    with pytest.raises(ValueError, match="keyring"):
        keyring.decode(json.dumps({"authorities": value}).encode())


@given(
    st.lists(st.text(max_size=20) | st.sampled_from(["--id", "--listen", "--label"]), max_size=5)
)
def test_words_on_a_command_line(words: list[str]) -> None:
    def nothing(_: str) -> str:
        raise FileNotFoundError(2, "no such file")

    for read in (agent_config.load, coordinator_config.read_config):
        with contextlib.suppress(ConfigError):
            read(words, {}, nothing)


def sent(payload: bytes, *fds: int) -> tuple[link.Message, list[int]] | None:
    """What the other end makes of it."""
    ours, theirs = link.pair()
    with ours, theirs:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        ours.sendmsg([payload], ancillary)
        return link.receive(theirs)


@given(st.binary(min_size=1, max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_what_comes_over_the_keepers_socket(payload: bytes) -> None:
    before = open_files()
    try:
        found = sent(payload)
    except ValueError:
        pass
    else:
        assert found is not None
        assert isinstance(found[0], dict)
    assert open_files() == before


@given(json_values, st.binary(max_size=100))
def test_what_comes_beside_it_in_memory(size: object, content: bytes) -> None:
    before = open_files()
    memory = os.memfd_create("fuzz")
    try:
        os.write(memory, content)
        with contextlib.suppress(ValueError):
            sent(json.dumps({"op": "spawn", "memfd": size}).encode(), memory)
    finally:
        os.close(memory)
    assert open_files() == before


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
