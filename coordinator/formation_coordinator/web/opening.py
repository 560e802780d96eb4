"""Where the page is served: plainly on loopback, else with TLS 1.3."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING

from formation import pki
from formation.credentials import CredentialError, read_password
from formation.names import COORDINATOR_NAME
from formation.runtime import monotonic_s, new_id, now_ms
from formation_coordinator.config import (
    is_local,
    page_host,
    page_is_https,
    page_url,
)
from formation_coordinator.listening import ListenError
from formation_coordinator.metrics import Metrics
from formation_coordinator.targets import target_groups
from formation_coordinator.web import rules
from formation_coordinator.web.calls import Calls
from formation_coordinator.web.detail import detail_of, warnings
from formation_coordinator.web.mapping import Mapping
from formation_coordinator.web.server import Page

if TYPE_CHECKING:
    from formation_coordinator.service import Service

log = logging.getLogger(__name__)

_LOOKS_EVERY_S = 60.0


class OpenPage:
    """Raises `ListenError`."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        config = self._config = service.config
        self._notary = service.notary
        https = page_is_https(config)
        # Our own certificate has one name: who checks it calls us by that.
        own = (COORDINATOR_NAME,) if https and not config.http_cert else ()
        hosts = rules.hosts_of(config.http, (*config.http_names, *own), local=is_local(config.http))
        self._mapping = Mapping(
            live=service.live,
            pending=service.api.watch.pending,
            said=lambda: warnings(service),
            clock=monotonic_s,
            now_ms=now_ms,
            new_id=new_id,
            replace_after_s=config.replace_after_s,
        )
        self._page = Page(
            guard=service.guard,
            calls=Calls(service.guard, service.api),
            logins=service.logins,
            hosts=hosts | {page_host(config).lower()},
            https=https,
            about=service.about,
            mapping=self._mapping,
            detail=lambda host, slot: detail_of(service, host, slot),
            metrics=metrics,
            metrics_token=_token(config.metrics_token_file),
            targets=lambda *kind: service.api.unsure() or target_groups(service.live.world, *kind),
        )
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if https else None
        self._loaded: object = None

    async def begin(self) -> None:
        host, _, port = self._config.http.rpartition(":")
        try:
            self._load()
            await self._page.serve(host.strip("[]"), int(port), self._context)
        except OSError as error:
            why = error.strerror or str(error)
            raise ListenError(f"--http {self._config.http}: {why}") from error
        log.info("the page is at %s", page_url(self._config))
        if self._context is None and not is_local(self._config.http):
            log.warning("INSECURE: whoever reads along at %s can log in", self._config.http)

    async def run(self) -> None:
        """For ever: closes what is idle, and shows the certificate of now."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._page.watch())
            tasks.create_task(self._mapping.run())
            tasks.create_task(self._keep_fresh())

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_LOOKS_EVERY_S)
            try:
                self._load()
            except (OSError, ssl.SSLError) as error:
                log.warning("the page goes on with the certificate of before: %s", error)

    async def close(self) -> None:
        await self._page.close()

    def _load(self) -> None:
        """Connections that come later show it, and are asked for one of our cluster."""
        config, context = self._config, self._context
        if context is None:
            return
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        notary = self._notary
        if notary is not None and notary.authorities() != self._loaded:
            self._loaded = notary.authorities()
            # Other authorities are added; those that count no more the guard refuses.
            pems = map(pki.certificate_pem, notary.authorities())
            context.load_verify_locations(cadata=b"".join(pems).decode())
            context.verify_mode = ssl.CERT_OPTIONAL
        if config.http_cert:
            context.load_cert_chain(config.http_cert, config.http_key)
        elif notary is not None:
            context.load_cert_chain(notary.credential.identity_path)


def _token(path: str) -> str:
    """Raises `ListenError`."""
    try:
        return read_password(path)
    except CredentialError as error:
        raise ListenError(str(error)) from error
