"""The agent's settings. Pure: see `formation.settings` for how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from formation import addresses, settings
from formation.names import HOST_NAME, PING_EVERY_S
from formation.settings import ConfigError, Program, ReadFile, Setting
from formation_agent import shipping_targets
from formation_agent.shipping_targets import Target

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
    ping_every_s: float = PING_EVERY_S
    users: tuple[str, ...] = ()
    default_user: str = ""
    directories: tuple[str, ...] = ()
    new_privileges: bool = False
    private_tmp: bool = False
    read_only_system: bool = False
    writable: tuple[str, ...] = ()
    no_exec: bool = False
    release_dir: str = ""
    log_bytes_max: int = 10 << 20
    log_files: int = 5
    log_to: tuple[Target, ...] = ()
    log_header_file: str = ""
    log_ca_file: str = ""
    metrics: str = ""
    metrics_cert: str = ""
    metrics_key: str = ""
    metrics_token_file: str = ""
    verbose: bool = False


def _host_name(text: str) -> str:
    if not HOST_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no host name: letters, digits, '.', '_' and '-' are")
    return text


def _directories(text: str) -> tuple[str, ...]:
    found = addresses.words(text)
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


def _targets(text: str) -> tuple[Target, ...]:
    return tuple(dict.fromkeys(map(shipping_targets.parse, addresses.words(text))))


def _http(text: str) -> str:
    if text.startswith("unix:"):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return addresses.address(text)


def _port_range(text: str) -> range:
    low, _, high = text.partition("-")
    if not addresses.is_port(low) or not addresses.is_port(high) or int(low) > int(high):
        raise ValueError(f"{text!r} is not LOW-HIGH with ports from 1 to 65535")
    return range(int(low), int(high) + 1)


def _base_port(text: str) -> int:
    if text != "0" and not addresses.is_port(text):
        raise ValueError(f"{text!r} is not a port, or 0 for off")
    return int(text)


_SETTINGS = (
    Setting(name="coordinator", field="coordinators", parse=addresses.addresses, meta="ADDR",
            repeats=True, help="HOST:PORT, [V6]:PORT or unix:/PATH; repeats (those it joined)"),
    Setting(name="insecure", field="insecure", parse=settings.switch, meta="",
            help="obey a coordinator on plain TCP, whoever that is"),
    Setting(name="ping-every", field="ping_every_s", parse=settings.ping_every, meta="SECONDS",
            help="how often its coordinator is asked whether it lives, 2 to 60 (2)"),
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
    Setting(name="allow-user", field="users", parse=addresses.words, meta="USER", repeats=True,
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
    Setting(name="no-exec", field="no_exec", parse=settings.switch, meta="",
            help="nobody runs commands beside instances here (formctl exec)"),
    Setting(name="release-dir", field="release_dir", parse=settings.filled, meta="DIR",
            help="where deployed code is unpacked (root: STATE-DIR-releases, else below that)"),
    Setting(name="inherit-env", field="inherit_env", parse=settings.switch, meta="",
            help="give children the agent's whole environment, minus FORMATION_*"),
    Setting(name="log-max-bytes", field="log_bytes_max", parse=_log_bytes, meta="BYTES",
            help="size at which an instance's log file is rotated (10MiB)"),
    Setting(name="log-files", field="log_files", parse=_files, meta="N",
            help="log files kept per instance (5)"),
    Setting(name="log-to", field="log_to", parse=_targets, meta="DEST", repeats=True,
            help="ship lines: journald, syslog[+udp|tcp|tls://], otlp+http|https://; repeats"),
    Setting(name="log-header-file", field="log_header_file", parse=settings.filled, meta="FILE",
            help="private: HTTP headers for OTLP, such as Authorization: Bearer …"),
    Setting(name="log-ca-file", field="log_ca_file", parse=settings.filled, meta="FILE",
            help="who may vouch for receivers over TLS (whom the system trusts)"),
    Setting(name="metrics", field="metrics", parse=_http, meta="ADDR",
            help="HOST:PORT where /metrics is served (nowhere)"),
    Setting(name="metrics-token-file", field="metrics_token_file", parse=settings.filled,
            meta="FILE", help="private: who shows the token in it may read /metrics"),
    Setting(name="metrics-cert", field="metrics_cert", parse=settings.filled, meta="FILE",
            help="serve /metrics over TLS; with --metrics-key"),
    Setting(name="metrics-key", field="metrics_key", parse=settings.filled, meta="FILE",
            help="its key"),
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
    config = AgentConfig(**settings.load(PROGRAM, argv, environ, read))
    if problems := _problems(config):
        raise ConfigError(problems)
    return config


def _problems(config: AgentConfig) -> list[str]:
    found = []
    otlp = [target for target in config.log_to if target.is_otlp]
    if config.log_header_file and not otlp:
        found.append("--log-header-file is for --log-to otlp+http or otlp+https")
    if config.log_header_file and any(target.reads_along for target in otlp):
        found.append("--log-header-file: others would read it along: use otlp+https")
    beside = config.metrics_token_file or config.metrics_cert or config.metrics_key
    if beside and not config.metrics:
        found.append("--metrics-token-file, --metrics-cert, --metrics-key need --metrics ADDR")
    if bool(config.metrics_cert) != bool(config.metrics_key):
        found.append("--metrics-cert and --metrics-key: give both or neither")
    guarded = config.metrics_token_file and config.metrics_cert
    if config.metrics and not addresses.is_loopback(config.metrics) and not guarded:
        found.append(
            f"--metrics {config.metrics}: beyond loopback it needs --metrics-token-file, "
            "--metrics-cert and --metrics-key"
        )
    return found


def help_text() -> str:
    return settings.help_text(PROGRAM)
