"""The agent's settings. Pure: see `formation.settings` for how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from formation import settings
from formation.model import HOST_NAME
from formation.settings import Program, ReadFile, Setting

_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# Smaller files would be rotated away before anybody reads them.
_LOG_BYTES_MIN = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """`coordinators`, `state_dir` and `name`: empty when not given, the program knows what then."""

    coordinators: tuple[str, ...] = ()
    name: str = ""
    state_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    instances_max: int = 0
    ports: range = range(20000, 30000)
    foreman_ports: int = 0
    inherit_env: bool = False
    insecure: bool = False
    users: tuple[str, ...] = ()
    default_user: str = ""
    directories: tuple[str, ...] = ()
    new_privileges: bool = False
    private_tmp: bool = False
    read_only_system: bool = False
    writable: tuple[str, ...] = ()
    log_bytes_max: int = 10 << 20
    log_files: int = 5
    verbose: bool = False


def _host_name(text: str) -> str:
    if not HOST_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no host name: letters, digits, '.', '_' and '-' are")
    return text


def _directories(text: str) -> tuple[str, ...]:
    found = settings.words(text)
    for path in found:
        if not path.startswith("/"):
            raise ValueError(f"{path!r}: must be absolute")
    return found


def _files(text: str) -> int:
    count = settings.count(text)
    if count < 1:
        raise ValueError("at least one file is needed")
    return count


def _log_bytes(text: str) -> int:
    unit = next((unit for unit in _SIZES if text.endswith(unit)), "")
    size = settings.count(text.removesuffix(unit).strip()) * _SIZES.get(unit, 1)
    if size < _LOG_BYTES_MIN:
        raise ValueError(f"must be at least {_LOG_BYTES_MIN} bytes")
    return size


def _port_range(text: str) -> range:
    low, _, high = text.partition("-")
    if not settings.is_port(low) or not settings.is_port(high) or int(low) > int(high):
        raise ValueError(f"{text!r} is not LOW-HIGH with ports from 1 to 65535")
    return range(int(low), int(high) + 1)


def _base_port(text: str) -> int:
    if text != "0" and not settings.is_port(text):
        raise ValueError(f"{text!r} is not a port, or 0 for off")
    return int(text)


_SETTINGS = (
    Setting(name="coordinator", field="coordinators", parse=settings.addresses, meta="ADDR",
            repeats=True, help="HOST:PORT, [V6]:PORT or unix:/PATH; repeats (those it joined)"),
    Setting(name="insecure", field="insecure", parse=settings.switch, meta="",
            help="obey a coordinator on plain TCP, whoever that is"),
    Setting(name="name", field="name", parse=_host_name, meta="HOST",
            help="what this machine is called in the cluster (as it joined, or its host name)"),
    Setting(name="state-dir", field="state_dir", parse=settings.filled, meta="DIR",
            help="journal, logs (root: /var/lib/formation, else ~/.local/state/formation)"),
    Setting(name="label", field="labels", parse=settings.labels, meta="KEY[=VALUE]", repeats=True,
            help="what sets this host apart; repeats"),
    Setting(name="address", field="address", parse=settings.filled, meta="ADDR",
            help="where its instances are reached (our address towards the coordinator)"),
    Setting(name="max-instances", field="instances_max", parse=settings.count, meta="N",
            help="never more than these; 0 is no limit (0)"),
    Setting(name="port-range", field="ports", parse=_port_range, meta="LOW-HIGH",
            help="where instances get their PORT from (20000-29999)"),
    Setting(name="foreman-ports", field="foreman_ports", parse=_base_port, meta="BASE",
            help="development: BASE + 100 per type + ordinal - 1 when free; 0 is off (0)"),
    Setting(name="allow-user", field="users", parse=settings.words, meta="USER", repeats=True,
            help="who instances may run as, * for anybody; repeats (anybody but root)"),
    Setting(name="default-user", field="default_user", parse=settings.filled, meta="USER",
            help="who a type without a user runs as (the agent's own)"),
    Setting(name="allow-dir", field="directories", parse=_directories, meta="DIR", repeats=True,
            help="where instances may run, with all below; repeats (anywhere)"),
    Setting(name="allow-new-privileges", field="new_privileges", parse=settings.switch, meta="",
            help="let set-user-id programs such as sudo work in instances"),
    Setting(name="private-tmp", field="private_tmp", parse=settings.switch, meta="",
            help="a /tmp and /var/tmp in memory for each instance, gone with it; needs root"),
    Setting(name="read-only-system", field="read_only_system", parse=settings.switch, meta="",
            help="instances write to /tmp, /var/tmp and --writable-dir only; needs root"),
    Setting(name="writable-dir", field="writable", parse=_directories, meta="DIR", repeats=True,
            help="with --read-only-system: may be written, with all below; repeats"),
    Setting(name="inherit-env", field="inherit_env", parse=settings.switch, meta="",
            help="give children the agent's whole environment, minus FORMATION_*"),
    Setting(name="log-max-bytes", field="log_bytes_max", parse=_log_bytes, meta="BYTES",
            help="size at which an instance's log file is rotated (10MiB)"),
    Setting(name="log-files", field="log_files", parse=_files, meta="N",
            help="log files kept per instance (5)"),
    Setting(name="verbose", field="verbose", parse=settings.switch, meta="", help="say more"),
)  # fmt: skip
PROGRAM = Program(
    name="formation-agent",
    purpose="Runs what the cluster's leader assigns to this machine, as foreground children.",
    prefix="FORMATION_AGENT_",
    settings=_SETTINGS,
)


def load(argv: Sequence[str], environ: Mapping[str, str], read: ReadFile) -> AgentConfig:
    """`read` gives a file's text or raises OSError. Raises `ConfigError` with all problems."""
    return AgentConfig(**settings.load(PROGRAM, argv, environ, read))


def help_text() -> str:
    return settings.help_text(PROGRAM)
