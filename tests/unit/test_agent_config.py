"""The agent's settings: where they come from, and that all mistakes are told at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from formation.settings import ConfigError
from formation_agent.config import AgentConfig, help_text, load


def read_nothing(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def settings(
    *argv: str, environ: dict[str, str] | None = None, file: str | None = None
) -> AgentConfig:
    return load(argv, environ or {}, read_nothing if file is None else lambda _: file)


def problems(
    *argv: str, environ: dict[str, str] | None = None, file: str | None = None
) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        settings(*argv, environ=environ, file=file)
    return caught.value.problems


def test_without_a_word_the_defaults_are_used() -> None:
    assert settings() == AgentConfig()


def test_every_flag_arrives() -> None:
    assert settings(
        *("--coordinator", "a:7100,[::1]:7100", "--coordinator=unix:/run/c", "--name", "b"),
        *("--state-dir", "/s", "--label", "zone=1", "--label", "disk=ssd", "--address", "10.0.0.1"),
        *("--max-instances", "9", "--port-range", "3000-3009", "--foreman-ports", "5000"),
        *("--inherit-env", "--log-max-bytes", "1MiB", "--log-files", "2", "--verbose"),
        "--no-exec",
    ) == AgentConfig(
        coordinators=("a:7100", "[::1]:7100", "unix:/run/c"),
        name="b",
        state_dir="/s",
        labels={"zone": "1", "disk": "ssd"},
        address="10.0.0.1",
        instances_max=9,
        ports=range(3000, 3010),
        foreman_ports=5000,
        inherit_env=True,
        log_bytes_max=1 << 20,
        log_files=2,
        verbose=True,
        no_exec=True,
    )


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file() -> None:
    file = 'name = "file"\nmax-instances = 1\nlog_files = 2\nlabel = {zone = "a"}\nverbose = true\n'
    environ = {
        "FORMATION_AGENT_NAME": "variable",
        "FORMATION_AGENT_MAX_INSTANCES": "3",
        "FORMATION_AGENT_CONFIG": "/etc/agent.toml",
    }
    config = settings("--name", "flag", environ=environ, file=file)
    assert (config.name, config.instances_max, config.log_files) == ("flag", 3, 2)
    assert (config.labels, config.verbose) == ({"zone": "a"}, True)


def test_lists_in_the_file_are_repeated_flags() -> None:
    file = 'coordinator = ["a:1", "b:2"]\nlabel = ["zone=1", "disk=ssd"]\n'
    config = settings("--config", "x.toml", file=file)
    assert config.coordinators == ("a:1", "b:2")
    assert config.labels == {"zone": "1", "disk": "ssd"}


def test_all_mistakes_are_told_at_once_with_their_places() -> None:
    found = problems(
        *("--coordinater", "a:1", "--max-instances", "many", "--port-range=9-3", "--name"),
        *("--config", "agent.toml"),
        environ={"FORMATION_AGENT_LOGFILES": "3", "FORMATION_AGENT_INHERIT_ENV": "perhaps"},
        file='lable = "x"\nstate_dir = 3.5\n',
    )
    assert found == (
        "--coordinater: unknown; did you mean --coordinator?",
        "--name: needs a value: --name HOST",
        "FORMATION_AGENT_LOGFILES: unknown; did you mean FORMATION_AGENT_LOG_FILES?",
        "agent.toml: lable: unknown; did you mean label?",
        "agent.toml: state_dir: 3.5 is neither text, number, switch, list nor table",
        "FORMATION_AGENT_INHERIT_ENV: 'perhaps' is neither true nor false",
        "--max-instances: 'many' is not a whole number from 0",
        "--port-range: '9-3' is not LOW-HIGH with ports from 1 to 65535",
    )


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (("--coordinator", "a"), "--coordinator: 'a' is not HOST:PORT, [V6]:PORT or unix:/PATH"),
        (("--coordinator", "::1:7"), "--coordinator: '::1:7' is not HOST:PORT"),
        (("--coordinator", "a:70000"), "--coordinator: 'a:70000' is not HOST:PORT"),
        (("--coordinator", "unix:x"), "--coordinator: 'unix:x': the path after unix: must be"),
        (("--coordinator", ","), "--coordinator: no address given"),
        (("--label", "zone="), "--label: 'zone=' is not KEY=VALUE, or a name alone"),
        (("--name", "a b"), "--name: 'a b' is no host name"),
        (("--name", "a", "--name", "b"), "--name: given twice"),
        (("--state-dir", ""), "--state-dir: must not be empty"),
        (("--log-max-bytes", "1"), "--log-max-bytes: must be at least 4096 bytes"),
        (("--log-files", "0"), "--log-files: at least one file is needed"),
        (("--foreman-ports", "x"), "--foreman-ports: 'x' is not a port, or 0 for off"),
        (("--config", "gone.toml"), "gone.toml: cannot be read: No such file or directory"),
        (("web=1",), "web=1: unexpected; options begin with --"),
    ],
)
def test_a_mistake_says_where_it_is_and_what_is_wrong(argv: tuple[str, ...], problem: str) -> None:
    (found,) = problems(*argv)
    assert found.startswith(problem)


def test_a_file_that_is_no_toml_is_told_with_its_line() -> None:
    (found,) = problems("--config", "a.toml", file="name = \n")
    assert found.startswith("a.toml: ")
    assert "line 1" in found


def test_the_help_names_every_setting() -> None:
    text = help_text()
    assert all(f"--{word}" in text for word in ("coordinator ADDR", "inherit-env", "config FILE"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_without_a_home_directory_a_state_directory_must_be_named() -> None:
    program = (
        "import os; os.setgid(54321); os.setuid(54321); os.environ.pop('HOME', None)\n"
        "from formation_agent.agent import RefusedError, default_state_dir\n"
        "try: print(default_state_dir())\n"
        "except RefusedError as error: print(error)\n"
    )
    # Imported as root, since the sources may be out of reach for others.
    program = "import formation_agent.agent\n" + program
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout == "user 54321 has no home directory here: give --state-dir\n"
