"""`formation.v1.Artifacts`, and what keeps a coordinator's artifacts as releases want them.

Level-triggered: what kept releases refer to and is not here is fetched from other coordinators;
what nothing refers to is removed. docs/design/artifacts.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from formation.artifacts import DIGEST, PART_BYTES, Artifact, done_text, problem_with
from formation.dialling import Dialler, NotTrustedError, words
from formation.identity import Identity, Role
from formation.model import Coordinator
from formation.names import APP_NAME
from formation.runtime import new_id
from formation.v1 import artifacts_pb2 as pb
from formation.v1 import artifacts_pb2_grpc
from formation_coordinator.api_errors import Context, status_of, worded
from formation_coordinator.artifactcopies import Copies
from formation_coordinator.artifactkeeping import Name, assigned_to, collected, kept, known
from formation_coordinator.artifactstore import (
    ArtifactError,
    ArtifactStore,
    BusyError,
    CorruptError,
    NoRoomError,
)
from formation_coordinator.changing import ControlError, Invalid, Refused, Unknown
from formation_coordinator.config import CoordinatorConfig, artifact_dir
from formation_coordinator.farstore import FarStore, opened
from formation_coordinator.guard import caller
from formation_coordinator.live import LiveWorld
from formation_coordinator.store.base import StoreError

log = logging.getLogger(__name__)

UPLOADS_MAX, FETCHES_MAX, TICKETS_MAX = 4, 16, 256
PART_WITHIN_S = 30.0
DRAIN_S = 5.0
# Less than what callers wait for an answer.
WAIT_S = 12.0
LOOK_EVERY_S = 30.0
LOOKS_PAUSE_S = 1.0


class Later(StoreError):
    """Not now; whoever asks tries again. UNAVAILABLE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticket:
    app: str
    artifact: Artifact
    who: Identity | None


class ArtifactService(artifacts_pb2_grpc.ArtifactsServicer):
    """`cut_off`: why we cannot know how things are, or ""; then nothing is removed."""

    def __init__(
        self,
        *,
        store: ArtifactStore,
        live: LiveWorld,
        me: Coordinator,
        dialler: Dialler,
        new_id: Callable[[], str],
        cut_off: Callable[[], str],
        far: FarStore | None = None,
    ) -> None:
        self._copies = Copies(far, store, self.kept_now) if far else None
        self.store, self._live, self._me = store, live, me
        self._dialler, self._new_id, self._cut_off = dialler, new_id, cut_off
        self._tickets: OrderedDict[str, _Ticket] = OrderedDict()
        self._uploads = asyncio.Semaphore(UPLOADS_MAX)
        self._fetches = asyncio.Semaphore(FETCHES_MAX)
        self._pulls: dict[Name, asyncio.Task[None]] = {}

    # ------------------------------------------------------------------ from formctl

    @worded
    async def BeginUpload(  # noqa: N802
        self, request: pb.BeginUploadRequest, context: Context
    ) -> pb.BeginUploadResponse:
        artifact = _named(request.app, request.digest, request.size_bytes)
        if await self.store.check(request.app, artifact.digest):
            self.store.use(request.app, artifact.digest)
            return pb.BeginUploadResponse(present=True)
        try:
            self.store.check_room(request.app, artifact)
        except NoRoomError as error:
            raise Refused(str(error)) from error
        ticket = self._new_id()
        self._tickets[ticket] = _Ticket(app=request.app, artifact=artifact, who=caller().identity)
        while len(self._tickets) > TICKETS_MAX:
            self._tickets.popitem(last=False)
        offset = self.store.offset(request.app, artifact.digest)
        return pb.BeginUploadResponse(ticket=ticket, offset=offset)

    @worded
    async def Upload(  # noqa: N802
        self, request: AsyncIterator[pb.UploadPart], context: Context
    ) -> pb.UploadResponse:
        parts = _in_time(request)
        try:
            ticket = await self._receive(parts)
        except (ControlError, StoreError):
            # Who still sends when the answer comes may not see it.
            with suppress(TimeoutError, ControlError):
                async with asyncio.timeout(DRAIN_S):
                    async for _ in parts:
                        pass
            raise
        log.info("%s: artifact %s was uploaded", ticket.app, ticket.artifact)
        if self._copies is None:
            return pb.UploadResponse()
        return pb.UploadResponse(warning=await self._copies.warning(ticket.app, ticket.artifact))

    async def _receive(self, parts: AsyncIterator[pb.UploadPart]) -> _Ticket:
        first = await anext(parts, pb.UploadPart())
        ticket = self._tickets.pop(first.ticket, None)
        if ticket is None or ticket.who != caller().identity:
            raise Refused("that ticket is unknown here: begin the upload again")
        async with _within(self._uploads, "uploads"):
            try:
                await self.store.receive(ticket.app, ticket.artifact, _data_of(first, parts))
            except ArtifactError as error:
                raise _worded_error(error) from error
        return ticket

    async def ensure(self, app: str, artifact: Artifact) -> None:
        """It is here, from another coordinator if need be. Raises `Refused`, `Later`."""
        size = await self.store.check(app, artifact.digest)
        if not size:
            await self._wait_for(app, artifact)
            size = await self.store.check(app, artifact.digest)
        if size != artifact.size_bytes:
            raise Refused(
                f"app {app}: artifact {artifact.digest[:12]} has {size} bytes, not "
                f"{artifact.size_bytes}"
            )
        self.store.use(app, artifact.digest)

    # ------------------------------------------------------------------ to agents and others

    async def Fetch(  # noqa: N802
        self, request: pb.FetchRequest, context: Context
    ) -> AsyncIterator[pb.FetchPart]:
        try:
            await self._prepare_fetch(request)
            async with _within(self._fetches, "fetches"):
                async for data in self.store.read(request.app, request.digest, request.offset):
                    yield pb.FetchPart(data=data)
            return
        except (ControlError, StoreError) as error:
            code, said = status_of(error)
        except OSError as error:
            code, said = grpc.StatusCode.UNAVAILABLE, f"{self._me.id}: {error.strerror}"
        await context.abort(code, said)

    async def _prepare_fetch(self, request: pb.FetchRequest) -> None:
        """Raises `Refused` for who has no business with it, `Unknown`, `Later`."""
        app, digest = request.app, request.digest
        if not APP_NAME.fullmatch(app) or not DIGEST.fullmatch(digest):
            raise Invalid("that is no artifact's name")
        world, who = self._live.world, caller().identity
        if who and who.role is Role.AGENT and not assigned_to(world, who.name, app, digest):
            raise Refused(f"no release that {who.name} runs refers to {digest[:12]} of {app}")
        if await self.store.check(app, digest):
            return
        artifact = None if request.relayed else known(world, app, digest)
        if artifact is None:
            raise Unknown(f"coordinator {self._me.id} has no {digest[:12]} of {app}")
        await self._wait_for(app, artifact)

    # ------------------------------------------------------------------ from other coordinators

    async def _wait_for(self, app: str, artifact: Artifact) -> None:
        """Raises `Refused` when nobody has it, `Later` while it comes."""
        task = self._pull_soon(app, artifact)
        done, _ = await asyncio.wait([task], timeout=WAIT_S)
        if not done:
            came = done_text(self.store.offset(app, artifact.digest), artifact.size_bytes)
            raise Later(f"coordinator {self._me.id} is not ready: it fetches this itself, {came}")
        if (error := task.exception()) is not None:
            raise Refused(str(error)) from error

    def _pull_soon(self, app: str, artifact: Artifact) -> asyncio.Task[None]:
        """One at a time for each."""
        name = app, artifact.digest
        if name not in self._pulls:
            task = self._pulls[name] = asyncio.create_task(self._pull(app, artifact))
            task.add_done_callback(lambda done: self._pulled(name, done))
        return self._pulls[name]

    def _pulled(self, name: Name, done: asyncio.Task[None]) -> None:
        self._pulls.pop(name, None)
        if not done.cancelled():
            done.exception()  # whoever waits for it is told; if nobody does, it is tried again

    async def _pull(self, app: str, artifact: Artifact) -> None:
        """Raises `ArtifactError` with what each has said."""
        said = []
        for other in tuple(self._live.world.coordinators.values()):
            if other.id == self._me.id:
                continue
            try:
                await self._pull_from(other, app, artifact)
            except grpc.aio.AioRpcError as error:
                said.append(f"{other.id}: {words(error)}")
            except (NotTrustedError, ArtifactError) as error:
                said.append(f"{other.id}: {error}")
            else:
                log.info("%s: artifact %s came from coordinator %s", app, artifact, other.id)
                return
        if self._copies is not None:
            try:
                await self._copies.fetch(app, artifact)
                return
            except ArtifactError as error:
                said.append(str(error))
        others = f" ({'; '.join(said)})" if said else ""
        raise ArtifactError(
            f"app {app}: no coordinator has artifact {artifact.digest[:12]}: deploy it again"
            f"{others}"
        )

    async def _pull_from(self, other: Coordinator, app: str, artifact: Artifact) -> None:
        async with self._dialler.channel(other.address) as channel:
            request = pb.FetchRequest(
                app=app,
                digest=artifact.digest,
                offset=self.store.offset(app, artifact.digest),
                relayed=True,
            )
            call = artifacts_pb2_grpc.ArtifactsStub(channel).Fetch(request)
            try:
                await self.store.receive(app, artifact, _fetched(call))
            finally:
                call.cancel()

    # ------------------------------------------------------------------ as releases want it

    async def run(self) -> None:
        """For ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look_for_ever())
                if self._copies is not None:
                    tasks.create_task(self._copies.run())
        finally:
            for task in tuple(self._pulls.values()):
                task.cancel()

    async def _look_for_ever(self) -> None:
        changed = self._live.subscribe()
        seen: object = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    while (self._live.world.releases, self._live.world.coordinators) == seen:
                        changed.clear()
                        await changed.wait()
                        await asyncio.sleep(LOOKS_PAUSE_S)
            seen = (self._live.world.releases, self._live.world.coordinators)
            try:
                await self.look()
            except OSError as error:
                log.warning("artifacts: %s: %s", error.filename, error.strerror)

    def kept_now(self) -> dict[Name, Artifact]:
        return kept(self._live.world)

    async def look(self) -> None:
        world = self._live.world
        wanted = self.kept_now()
        for (app, digest), artifact in wanted.items():
            if not self.store.size(app, digest) and (self._copies or len(world.coordinators) > 1):
                await asyncio.wait([self._pull_soon(app, artifact)])
        unreadable = any(kind in ("releases", "apps") for kind, _ in world.unreadable)
        if self._cut_off() or unreadable:
            return  # something that we do not see may refer to it
        held = await asyncio.to_thread(self.store.held)
        for item in collected(held, wanted):
            log.info("%s: nothing refers to artifact %s: removed", item.app, item.digest[:12])
            await asyncio.to_thread(self.store.remove, item)


def artifact_service(
    config: CoordinatorConfig,
    *,
    live: LiveWorld,
    me: Coordinator,
    dialler: Dialler,
    cut_off: Callable[[], str],
) -> ArtifactService:
    """Raises `NoLibraryError`."""
    store = ArtifactStore(
        Path(artifact_dir(config, me.id)).absolute(),
        bytes_max=config.artifact_bytes_max,
        total_bytes_max=config.artifact_total_bytes_max,
    )
    return ArtifactService(
        store=store,
        live=live,
        me=me,
        dialler=dialler,
        new_id=new_id,
        cut_off=cut_off,
        far=opened(config.artifact_store) if config.artifact_store else None,
    )


class _within:  # noqa: N801  reads as what it does
    """One of so many at a time; who waits for too long is told to come again."""

    def __init__(self, slots: asyncio.Semaphore, what: str) -> None:
        self._slots, self._what = slots, what

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise Later(f"this coordinator is not ready: too many {self._what} at once") from None

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()


def _named(app: str, digest: str, size_bytes: int) -> Artifact:
    artifact = Artifact(digest=digest, size_bytes=size_bytes)
    if not APP_NAME.fullmatch(app):
        raise Invalid(f"bad app name {app[:80]!r}")
    if wrong := problem_with(artifact):
        raise Invalid(wrong)
    return artifact


def _worded_error(error: ArtifactError) -> ControlError | StoreError:
    if isinstance(error, CorruptError):
        return Invalid(str(error))
    if isinstance(error, BusyError):
        return Later(f"this coordinator is not ready: {error}")
    return Refused(str(error))


async def _in_time(request: AsyncIterator[pb.UploadPart]) -> AsyncIterator[pb.UploadPart]:
    """Who sends nothing for long holds no place."""
    parts = aiter(request)
    while True:
        try:
            async with asyncio.timeout(PART_WITHIN_S):
                part = await anext(parts)
        except TimeoutError:
            raise Refused(f"nothing came for {PART_WITHIN_S:g} s") from None
        except StopAsyncIteration:
            return
        if len(part.data) > PART_BYTES:
            raise Invalid(f"a part of more than {PART_BYTES} bytes")
        yield part


async def _data_of(
    first: pb.UploadPart, rest: AsyncIterator[pb.UploadPart]
) -> AsyncIterator[bytes]:
    yield first.data
    async for part in rest:
        yield part.data


async def _fetched(call: AsyncIterable[pb.FetchPart]) -> AsyncIterator[bytes]:
    parts = aiter(call)
    while True:
        try:
            async with asyncio.timeout(PART_WITHIN_S):
                part = await anext(parts)
        except TimeoutError:
            raise ArtifactError(f"nothing came for {PART_WITHIN_S:g} s") from None
        except StopAsyncIteration:
            return
        yield part.data
