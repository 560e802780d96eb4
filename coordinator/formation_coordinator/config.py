"""The coordinator's settings: see `formation.settings` for how they are read."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from formation.addresses import address, words
from formation.names import HOST_NAME, PING_EVERY_S
from formation.settings import (
    ConfigError,
    Program,
    ReadFile,
    Setting,
    filled,
    load,
    ping_every,
    seconds,
    size,
    switch,
)

EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """`id`, `advertise` and `identity_dir` are "" when not given: the program knows what then."""

    listen: str = "127.0.0.1:7100"
    advertise: str = ""
    etcd: tuple[str, ...] = ("http://127.0.0.1:2379",)
    etcd_ca: str = ""
    etcd_cert: str = ""
    etcd_key: str = ""
    etcd_user: str = ""
    etcd_password_file: str = ""
    etcd_prefix: str = "/formation/"
    data_dir: str = ""
    id: str = ""
    identity_dir: str = ""
    sealing_key_file: str = ""
    http: str = ""
    http_cert: str = ""
    http_key: str = ""
    http_names: tuple[str, ...] = ()
    metrics_token_file: str = ""
    otlp: str = ""
    otlp_share: float = 1.0
    artifact_dir: str = ""
    artifact_store: str = ""
    artifact_bytes_max: int = 512 << 20
    artifact_total_bytes_max: int = 20 << 30
    replace_after_s: float = 5.0
    ping_every_s: float = PING_EVERY_S
    compact_every_s: float = 600.0
    insecure: bool = False
    verbose: bool = False


def _etcd(text: str) -> tuple[str, ...]:
    found = words(text)
    if not found:
        raise ValueError("no endpoint given")
    if found == (EMBEDDED,):
        return found
    for word in found:
        scheme, colon, rest = word.partition(":")
        if scheme not in ("http", "https", "unix") or not colon or not rest.strip("/"):
            raise ValueError(f"{word!r} is not http://HOST:PORT, https://…, unix:/PATH or embedded")
    return found


def _otlp(text: str) -> str:
    scheme, colon, rest = text.partition("://")
    if scheme not in ("http", "https") or not colon or not rest.strip("/") or "@" in rest:
        raise ValueError(f"{text.partition('@')[0]!r} is not http://HOST:PORT or https://HOST:PORT")
    return text


def _store(text: str) -> str:
    scheme, colon, rest = text.partition("://")
    host, _, path = rest.partition("/")
    if "@" in rest or "?" in rest or "#" in rest:
        raise ValueError(
            f"{scheme}://…: no passwords, keys or settings in it, which others could read: they "
            "belong into the environment or files (AWS_…, ~/.aws, ~/.netrc)"
        )
    named = path if scheme == "file" and not host else host if scheme in ("s3", "https") else ""
    if not colon or not named.strip("/"):
        raise ValueError(f"{text!r} is not file:///PATH, s3://BUCKET/NAME or https://HOST/PATH")
    return text.rstrip("/")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a number from 0 to 1")
    return value


def _every(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)


def _id(text: str) -> str:
    if not HOST_NAME.fullmatch(text):
        raise ValueError(f"{text!r}: letters, digits, '.', '_' and '-' only")
    return text


def prefix(text: str) -> str:
    if not text.startswith("/") or not text.endswith("/") or len(text) < len("/x/"):
        raise ValueError(f"{text!r} must start and end with / and hold a name")
    return text


PROGRAM = Program(
    name="formation-coordinator",
    purpose="Keeps desired formations in etcd and places process instances on hosts.",
    prefix="FORMATION_COORDINATOR_",
    settings=(
        Setting(name="listen", field="listen", parse=address, meta="ADDR",
                help="HOST:PORT, [V6]:PORT or unix:/PATH to serve on (127.0.0.1:7100)"),
        Setting(name="advertise", field="advertise", parse=address, meta="ADDR",
                help="where others reach this coordinator (the listen address)"),
        Setting(name="etcd", field="etcd", parse=_etcd, meta="URL", repeats=True,
                help="an endpoint, may be repeated; or 'embedded' (http://127.0.0.1:2379)"),
        Setting(name="etcd-ca", field="etcd_ca", parse=filled, meta="FILE",
                help="CA that signed etcd's certificates, for https endpoints"),
        Setting(name="etcd-cert", field="etcd_cert", parse=filled, meta="FILE",
                help="our certificate towards etcd"),
        Setting(name="etcd-key", field="etcd_key", parse=filled, meta="FILE",
                help="the key of --etcd-cert"),
        Setting(name="etcd-user", field="etcd_user", parse=filled, meta="NAME",
                help="who we are to an etcd with authentication on"),
        Setting(name="etcd-password-file", field="etcd_password_file", parse=filled, meta="FILE",
                help="the password of --etcd-user, on its first line"),
        Setting(name="etcd-prefix", field="etcd_prefix", parse=prefix, meta="/NAME/",
                help="where this cluster's keys start (/formation/)"),
        Setting(name="data-dir", field="data_dir", parse=filled, meta="DIR",
                help="where an embedded etcd keeps its data"),
        Setting(name="id", field="id", parse=_id, meta="NAME",
                help="name of this coordinator (host name and listen address)"),
        Setting(name="identity-dir", field="identity_dir", parse=filled, meta="DIR",
                help="our certificate and keys (root: /var/lib/formation-coordinator)"),
        Setting(name="sealing-key-file", field="sealing_key_file", parse=filled, meta="FILE",
                help="keys that seal secrets, the first now; else they are made in our directory"),
        Setting(name="http", field="http", parse=address, meta="ADDR",
                help="HOST:PORT of the page for browsers; beyond loopback it speaks https (none)"),
        Setting(name="http-cert", field="http_cert", parse=filled, meta="FILE",
                help="a certificate that browsers know, for https (the cluster's own)"),
        Setting(name="http-key", field="http_key", parse=filled, meta="FILE",
                help="the key of --http-cert"),
        Setting(name="http-name", field="http_names", parse=words, meta="NAME", repeats=True,
                help="what browsers may call the page beside its address; repeats"),
        Setting(name="metrics-token-file", field="metrics_token_file", parse=filled, meta="FILE",
                help="who shows the token in it may read /metrics of the page"),
        Setting(name="otlp", field="otlp", parse=_otlp, meta="URL",
                help="http://HOST:4318 of a receiver of traces (none)"),
        Setting(name="otlp-share", field="otlp_share", parse=_share, meta="0..1",
                help="so many of the changes are traced (1)"),
        Setting(name="artifact-dir", field="artifact_dir", parse=filled, meta="DIR",
                help="where code that was deployed is kept (artifacts, below our directory)"),
        Setting(name="artifact-store", field="artifact_store", parse=_store, meta="URL",
                help="where it is kept too: file:///PATH, s3://BUCKET/NAME, https://… to read"),
        Setting(name="artifact-max-bytes", field="artifact_bytes_max", parse=size, meta="BYTES",
                help="how large one may be (512MiB)"),
        Setting(name="artifact-total-bytes", field="artifact_total_bytes_max", parse=size,
                meta="BYTES", help="how large all may be together (20GiB)"),
        Setting(name="ping-every", field="ping_every_s", parse=ping_every, meta="SECONDS",
                help="how often agents ask whether it lives, 2 to 60; one that has not for twice as"
                     " long is asked (2)"),
        Setting(name="compact-every", field="compact_every_s", parse=_every, meta="SECONDS",
                help="etcd forgets older history while we lead; 0: others see to it (600)"),
        Setting(name="replace-after", field="replace_after_s", parse=seconds, meta="SECONDS",
                help="silence after which a host's instances are placed elsewhere (5)"),
        Setting(name="insecure", field="insecure", parse=switch, meta="",
                help="serve on TCP without encryption or authentication, to whoever reaches it"),
        Setting(name="verbose", field="verbose", parse=switch, meta="", help="say more"),
    ),
)  # fmt: skip


def default_identity_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/formation-coordinator"
    return os.path.expanduser("~/.local/state/formation-coordinator")


def artifact_dir(config: CoordinatorConfig, coordinator_id: str) -> str:
    """Several coordinators of one user may share an identity's directory, never this one."""
    if config.artifact_dir:
        return config.artifact_dir
    if config.data_dir:
        return os.path.join(config.data_dir, "artifacts")
    base = config.identity_dir or default_identity_dir()
    return os.path.join(base, "artifacts", coordinator_id)


def read_config(
    argv: Sequence[str], environ: Mapping[str, str], read: ReadFile
) -> CoordinatorConfig:
    """Raises `ConfigError` with every problem found."""
    config = CoordinatorConfig(**load(PROGRAM, argv, environ, read))
    problems = _problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def _problems(config: CoordinatorConfig) -> list[str]:
    found = []
    if config.etcd == (EMBEDDED,) and not config.data_dir:
        found.append("--etcd embedded: needs --data-dir DIR to keep its data in")
    if config.data_dir and config.etcd != (EMBEDDED,):
        found.append("--data-dir: only an embedded etcd has one; add --etcd embedded or drop it")
    if bool(config.etcd_cert) != bool(config.etcd_key):
        found.append("--etcd-cert and --etcd-key: give both or neither")
    if bool(config.etcd_user) != bool(config.etcd_password_file):
        found.append("--etcd-user and --etcd-password-file: give both or neither")
    if bool(config.http_cert) != bool(config.http_key):
        found.append("--http-cert and --http-key: give both or neither")
    if (config.http_cert or config.http_names or config.metrics_token_file) and not config.http:
        found.append("--http-cert, --http-key, --http-name, --metrics-token-file need --http ADDR")
    if config.http.startswith("unix:"):
        found.append("--http: browsers know no Unix sockets; give HOST:PORT")
    if unspecified(config.listen) and not config.advertise:
        found.append(f"--listen {config.listen}: give --advertise ADDR, so that others find it")
    return found


def problem_with_access(config: CoordinatorConfig, *, certified: bool) -> str:
    """Why it may not listen there, or "". `certified`: there is a certificate."""
    if config.insecure and certified:
        return f"--insecure: there is a certificate in {config.identity_dir}; drop one of them"
    if certified or config.insecure or config.listen.startswith("unix:"):
        return ""
    others = "other users of this machine too" if is_local(config.listen) else "from anywhere"
    return (
        f"--listen {config.listen}: whoever reaches it, {others}, could run commands on every "
        "host: make certificates with formation-coordinator init, listen on unix:/PATH, or say "
        "--insecure"
    )


def problem_with_page(config: CoordinatorConfig, *, certified: bool) -> str:
    """Why there can be no page there, or ""."""
    if not config.http or is_local(config.http) or certified or config.http_cert:
        return ""
    if config.insecure:
        return ""
    return (
        f"--http {config.http}: others would read along: make certificates with "
        "formation-coordinator init, give --http-cert and --http-key, or serve on loopback"
    )


def _host(listen: str) -> str:
    return listen.rpartition(":")[0].strip("[]")


def is_local(listen: str) -> bool:
    """Can only this machine reach it?"""
    if listen.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(_host(listen)).is_loopback
    except ValueError:
        return _host(listen) == "localhost"


def unspecified(listen: str) -> bool:
    """0.0.0.0 and [::] are for listening, nobody can dial them."""
    try:
        return not listen.startswith("unix:") and ipaddress.ip_address(_host(listen)).is_unspecified
    except ValueError:
        return False


def page_url(config: CoordinatorConfig) -> str:
    """What people open; "" without a page."""
    if not config.http:
        return ""
    scheme = "https" if page_is_https(config) else "http"
    return f"{scheme}://{page_host(config)}/"


def page_is_https(config: CoordinatorConfig) -> bool:
    return bool(config.http_cert) or not (is_local(config.http) or config.insecure)


def page_host(config: CoordinatorConfig) -> str:
    host, _, port = config.http.rpartition(":")
    if config.http_names:
        host = config.http_names[0]
    elif unspecified(config.http):
        host = config.advertise.rpartition(":")[0] or "localhost"
    return f"{host}:{port}"


def default_id(host_name: str, address: str) -> str:
    """The host's name and what tells several coordinators on it apart: port or socket."""
    if address.startswith("unix:"):
        return f"{host_name}-{os.path.basename(address).removesuffix('.sock')}"
    return f"{host_name}-{address.rpartition(':')[2]}"
