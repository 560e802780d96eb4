"""The part of `formation.v1.Control` about autoscaling and webhooks. Checks what came in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import grpc

from formation import wire_automation
from formation.automation import Autoscale, Webhook
from formation.dialling import Dialler, NotTrustedError, words
from formation.identity import Role
from formation.model import Coordinator
from formation.runtime import monotonic_s
from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, types_pb2
from formation_coordinator.api_changes import ChangeApi
from formation_coordinator.api_errors import Context, worded
from formation_coordinator.automating import Automation
from formation_coordinator.autoscale import Reading
from formation_coordinator.changing import Unknown
from formation_coordinator.control_automation import AutoscaleWish
from formation_coordinator.guard import caller
from formation_coordinator.scaler import Look
from formation_coordinator.signing import SECRET_BYTES, secret_text

RELAY_S = 3.0


class AutomationApi(ChangeApi):
    """`changes`: what `ChangeApi` is made with."""

    def __init__(
        self, *, automation: Automation, dialler: Dialler, me: Coordinator, **changes: Any
    ) -> None:
        super().__init__(**changes)
        self._automation, self._dialler, self._me = automation, dialler, me

    # ------------------------------------------------------------------ autoscale

    @worded
    async def SetAutoscale(self, request: pb.SetAutoscaleRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        control, unchanged = self._automation.control, False
        if request.off:
            rule, revision = await control.end_autoscale(
                request.app, request.type, request.who, request.why
            )
        else:
            rule, unchanged, revision = await control.set_autoscale(
                _wish(request), request.who, request.why
            )
        return pb.SetAutoscaleResponse(
            rule=wire_automation.autoscale_to_pb(rule), unchanged=unchanged, revision=revision
        )

    @worded
    async def ListAutoscale(self, request: pb.ListAutoscaleRequest, context: Context) -> Any:  # noqa: N802
        """What was measured the leader alone knows."""
        self._ready()
        leader, note = self._live.world.leader, ""
        if leader is None:
            note = "nobody leads at present, so nothing is looked at"
        elif leader.id != self._me.id and not request.relayed:
            try:
                return await self._of_leader(leader, request.app)
            except (grpc.aio.AioRpcError, NotTrustedError) as error:
                note = f"the leader, {leader.id}: {words(error)}; what it measures is missing"
        looks = self._automation.scaler.looks
        rules = sorted(self._live.world.autoscale.items())
        return pb.ListAutoscaleResponse(
            rules=[
                self._view(rule, looks.get(key))
                for key, rule in rules
                if request.app in ("", rule.app)
            ],
            note=note,
        )

    async def _of_leader(self, leader: Coordinator, app: str) -> pb.ListAutoscaleResponse:
        async with self._dialler.channel(leader.address) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            request = pb.ListAutoscaleRequest(app=app, relayed=True)
            response: pb.ListAutoscaleResponse = await stub.ListAutoscale(request, timeout=RELAY_S)
            return response

    def _view(self, rule: Autoscale, look: Look | None) -> pb.AutoscaleView:
        app = self._live.world.apps.get(rule.app)
        return pb.AutoscaleView(
            rule=wire_automation.autoscale_to_pb(rule),
            quantity=app.formation.get(rule.type, 0) if app else 0,
            sentence=look.sentence if look else "",
            measures=map(_measure_view, look.readings) if look else (),
            looked_at_ms=look.looked_at_ms if look else 0,
            next_look_ms=look.next_look_ms if look else 0,
        )

    # ------------------------------------------------------------------ webhooks

    @worded
    async def AddWebhook(self, request: pb.AddWebhookRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        if not self._vault.sealer:  # the first secret of this cluster
            key = await self._vault.another_key()
            await self._live.reach(await self._secrets.turn_to(key, "", request.who))
        secret = request.secret or secret_text(os.urandom(SECRET_BYTES))
        wanted = Webhook(
            name=request.name, url=request.url, what=tuple(request.what), app=request.app
        )
        hook, revision = await self._automation.control.add_webhook(
            wanted, secret, self._vault, request.who, request.why
        )
        return pb.AddWebhookResponse(
            webhook=_without_secret(hook),
            secret="" if request.secret else secret,
            revision=revision,
        )

    @worded
    async def RemoveWebhook(self, request: pb.RemoveWebhookRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        revision = await self._automation.control.remove_webhook(
            request.name, request.who, request.why
        )
        return pb.RemoveWebhookResponse(revision=revision)

    @worded
    async def TestWebhook(self, request: pb.TestWebhookRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        hook = self._live.world.webhooks.get(request.name)
        if hook is None:
            raise Unknown(f"no webhook {request.name!r}; see formctl webhook")
        began_s = monotonic_s()
        outcome = await self._automation.herald.test(hook)
        return pb.TestWebhookResponse(
            good=outcome.good, word=outcome.word, took_s=monotonic_s() - began_s
        )

    @worded
    async def ListWebhooks(self, request: pb.ListWebhooksRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        world = self._live.world
        found = []
        for name in sorted(world.webhooks):
            delivery = world.deliveries.get(name)
            found.append(
                pb.WebhookView(
                    webhook=_without_secret(world.webhooks[name]),
                    delivery=wire_automation.delivery_to_pb(delivery) if delivery else None,
                )
            )
        return pb.ListWebhooksResponse(webhooks=found)


def _wish(request: pb.SetAutoscaleRequest) -> AutoscaleWish:
    given: Mapping[str, Any] = {
        name: getattr(request, name)
        for name in ("minimum", "maximum", "up_window_s", "down_window_s", "every_s")
        if request.HasField(name)
    }
    who = caller().identity
    return AutoscaleWish(
        app=request.app,
        type=request.type,
        measures=tuple(map(wire_automation.measure_from_pb, request.measures)),
        # Without certificates everybody is an operator.
        may_point=who is None or who.role is Role.OPERATOR,
        **given,
    )


def _measure_view(reading: Reading) -> pb.MeasureView:
    measured = len(reading.values)
    return pb.MeasureView(
        measure=wire_automation.measure_to_pb(reading.measure),
        value=sum(reading.values) / measured if reading.known else None,
        measured=measured,
        missing=reading.missing,
        problem=reading.problem,
    )


def _without_secret(hook: Webhook) -> types_pb2.Webhook:
    message = wire_automation.webhook_to_pb(hook)
    message.sealed = b""
    return message
