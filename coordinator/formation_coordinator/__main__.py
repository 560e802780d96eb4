"""`formation-coordinator`: settings in, a `Service` run in the foreground until a signal."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import formation
from formation import grpcenv
from formation.runtime import complain, hide, setup_logging, stop_event
from formation.settings import ConfigError, help_text
from formation_coordinator.config import (
    EMBEDDED,
    PROGRAM,
    CoordinatorConfig,
    default_identity_dir,
    read_config,
)

log = logging.getLogger(__name__)

# Everything that lives here for long are records without cycles, in millions. To look through them
# for garbage after each 700 new objects costs more than there is to find: a change of some hundred
# instances would wait for it for a tenth of a second.
GC_AFTER, GC_OLDER_AFTER = 50_000, 10

EXIT_FAILED = 1
EXIT_USAGE = 2


_COMMANDS = """Commands:
  init                  makes a new cluster's authority and certificates; init --help says more
  join ADDRESS TOKEN    makes this machine another coordinator of a cluster"""


def main() -> None:
    if sys.argv[1:2] in (["init"], ["join"]):
        from formation_coordinator import founding

        sys.exit(founding.main(sys.argv[1:]))
    if "--help" in sys.argv[1:]:
        print(f"{help_text(PROGRAM)}\n\n{_COMMANDS}")  # noqa: T201
        return
    if "--version" in sys.argv[1:]:
        print(f"{PROGRAM.name} {formation.__version__}")  # noqa: T201
        return
    try:
        config = read_config(sys.argv[1:], os.environ, lambda path: Path(path).read_text("utf-8"))
    except ConfigError as error:
        sys.exit(_complain(error.problems))
    grpcenv.prepare()
    hide()
    gc.set_threshold(GC_AFTER, GC_OLDER_AFTER, GC_OLDER_AFTER)
    setup_logging(PROGRAM.name, verbose=config.verbose)
    directory = config.identity_dir or default_identity_dir()
    sys.exit(asyncio.run(_run(replace(config, identity_dir=directory))))


def _complain(problems: tuple[str, ...]) -> int:
    complain(PROGRAM.name, *problems)
    return EXIT_USAGE


async def _run(config: CoordinatorConfig) -> int:
    from formation.credentials import CredentialError, read_password

    # Late, so that --help and bad settings answer before grpc is loaded.
    from formation_coordinator.embedded import EmbeddedError, EmbeddedEtcd
    from formation_coordinator.service import FatalError, Service
    from formation_coordinator.store.base import StoreError
    from formation_coordinator.store.endpoints import TlsFiles
    from formation_coordinator.store.etcd import EtcdStore
    from formation_coordinator.store.login import Login
    from formation_coordinator.systemd import Manager

    manager = Manager(os.environ)
    try:
        password = read_password(config.etcd_password_file)
    except CredentialError as error:
        return _failed(str(error))
    stop = stop_event()
    embedded = EmbeddedEtcd(config.data_dir) if config.etcd == (EMBEDDED,) else None
    try:
        if embedded:
            await embedded.start()
        login = Login(user=config.etcd_user, password=password) if password else None
        tls = TlsFiles(ca=config.etcd_ca, cert=config.etcd_cert, key=config.etcd_key)
        store = EtcdStore(
            [embedded.endpoint] if embedded else config.etcd,
            prefix=config.etcd_prefix,
            tls=tls if tls != TlsFiles() else None,
            login=login,
        )
        try:
            await Service(config, store, manager=manager).run(stop.wait)
        finally:
            await store.close()
    except (EmbeddedError, FatalError, StoreError, ValueError) as error:
        return _failed(str(error))
    finally:
        if embedded:
            await embedded.stop()
        manager.close()
    log.info("stopped")
    return 0


def _failed(reason: str) -> int:
    complain(PROGRAM.name, reason)
    return EXIT_FAILED


if __name__ == "__main__":
    main()
