"""What goes on without anybody asking, put together: the driver, autoscaling and webhooks lead
together, and what each needs of the outside is opened and closed here."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from formation.runtime import monotonic_s, new_id, now_ms
from formation_coordinator.chronicle import Chronicle
from formation_coordinator.control_automation import AutomationControl
from formation_coordinator.herald import Herald
from formation_coordinator.outside import Outside
from formation_coordinator.scaler import Scaler
from formation_coordinator.store.base import Store
from formation_coordinator.usagefan import UsageFan

if TYPE_CHECKING:
    from formation_coordinator.metrics_automation import AutomationSight
    from formation_coordinator.service import Service

MIRROR_WAIT_S = 5.0


class Automation:
    def __init__(
        self, service: Service, store: Store, chronicle: Chronicle, usage: UsageFan
    ) -> None:
        mirror, live, driver = service.mirror, service.live, service.driver
        self._mirror, self._live, self._driver = mirror, live, driver
        self._outside = Outside()
        self.control = AutomationControl(store=store, now_ms=now_ms, new_id=new_id)
        self.scaler = Scaler(
            store=store,
            mirror=mirror,
            live=live,
            usage=usage,
            outside=self._outside,
            plan=lambda: driver.last,
            replace_after_s=service.config.replace_after_s,
            clock=monotonic_s,
            now_ms=now_ms,
            new_id=new_id,
        )
        self.herald = Herald(
            store=store,
            live=live,
            chronicle=chronicle,
            vault=service.vault,
            outside=self._outside,
            me=service.me.id,
            now_ms=now_ms,
            new_id=new_id,
            jitter=random.random,
        )

    async def lead(self, epoch: int) -> None:
        """Until cancelled; never on a view from before we led."""
        while self._mirror.revision < epoch:
            with suppress(TimeoutError):
                await self._mirror.wait_for(epoch, MIRROR_WAIT_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._driver.lead(epoch))
            tasks.create_task(self.scaler.lead(epoch))
            tasks.create_task(self.herald.lead(epoch))

    def sight(self, *, leads: bool) -> AutomationSight:
        """For metrics, whose library is loaded only where there is a page."""
        from formation_coordinator.metrics_automation import AutomationSight

        world = self._live.world
        seen = AutomationSight(
            rules=world.autoscale,
            quantities={
                (app.name, kind): quantity
                for app in world.apps.values()
                for kind, quantity in app.formation.items()
                if (app.name, kind) in world.autoscale
            },
        )
        if not leads:
            return seen
        return replace(
            seen,
            readings={key: look.readings for key, look in self.scaler.looks.items()},
            changes=dict(self.scaler.changes),
            deliveries=self.herald.records(),
        )

    async def close(self) -> None:
        await self._outside.close()
