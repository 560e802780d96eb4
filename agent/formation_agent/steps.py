"""What the moves of the machine are made of. Pure: (stay, …, now) → stay or step."""

from __future__ import annotations

from msgspec import structs

from formation.model import RestartPolicy, StopTo
from formation.policy import failures_after_exit, last_failures, restart_delay_s
from formation_agent.stays import (
    Exited,
    Instruction,
    Look,
    Phase,
    Signal,
    Spawn,
    Stay,
    Step,
    describe_duration,
)

# A KILL cannot be refused, but a process in an uninterruptible call dies late: ask again.
KILL_AGAIN_S = 5.0
# An end that takes this long is worth telling who holds it up.
LOOK_AFTER_S = 5.0


def spawn(stay: Stay, *before: Instruction) -> Step:
    attempt = stay.attempt + 1
    spawning = structs.replace(
        stay,
        phase=Phase.SPAWNING,
        attempt=attempt,
        wake_at_s=None,
        retry_at_s=None,
        deadline_s=None,
        look_at_s=None,
        after=Phase.BACKOFF,
        killing=False,
        adopted=False,
        cause="",
        told="",
    )
    return spawning, (*before, Spawn(attempt=attempt))


def says_when_ready(stay: Stay) -> bool:
    return stay.spec.notify or stay.spec.readiness is not None


def up(stay: Stay, pid: int, started_s: float, now_s: float) -> Step:
    """It runs; is it ready by now?"""
    spec = stay.spec
    grace_until_s = started_s + spec.start_grace_s
    wake_at_s = grace_until_s if says_when_ready(stay) else started_s + spec.ready_after_s
    starting = structs.replace(
        stay,
        phase=Phase.STARTING,
        pid=pid,
        started_s=started_s,
        grace_until_s=grace_until_s,
        wake_at_s=wake_at_s,
        reason="",
    )
    return start_over(starting, now_s) if wake_at_s <= now_s else (starting, ())


def start_over(stay: Stay, now_s: float) -> Step:
    """The time that it had for its start has passed."""
    if not says_when_ready(stay):
        return structs.replace(stay, phase=Phase.HEALTHY, wake_at_s=None, reason=""), ()
    late = f"not ready within {describe_duration(stay.grace_until_s - stay.started_s)}"
    if stay.reason:
        late += f": {stay.reason.removeprefix('not ready yet: ')}"
    # The brain that started an adopted one may have heard its READY=1 and died with that.
    if stay.spec.notify and not stay.adopted:
        return restarting(stay, late, now_s)
    return structs.replace(stay, phase=Phase.UNREADY, wake_at_s=None, reason=late), ()


def ended(stay: Stay, event: Exited, now_s: float, jitter: float) -> Stay:
    """The main process is gone by itself or for not being alive: what follows?"""
    up_s = now_s - stay.started_s if event.just_now else None
    reason = event.how if up_s is None else f"{event.how} after {describe_duration(up_s)}"
    success = event.success
    if stay.phase is Phase.RESTARTING:
        reason, success = f"{stay.cause}; {reason}", False
    ended = structs.replace(stay, pid=0, last_exit=event.how, reason=reason)
    if stay.spec.restart is not RestartPolicy.ALWAYS and success:
        return structs.replace(ended, after=Phase.FINISHED, failures=0)
    ended = failed(ended, reason, up_s, now_s, jitter)
    if stay.spec.restart is RestartPolicy.NEVER:
        return structs.replace(ended, after=Phase.FAILED, retry_at_s=None)
    if ended.failures == 1:
        return ended
    return structs.replace(ended, reason=f"{reason} ({ordinal(ended.failures)} time in a row)")


def failed(stay: Stay, reason: str, up_s: float | None, now_s: float, jitter: float) -> Stay:
    failures = failures_after_exit(stay.failures, up_s)
    return structs.replace(
        stay,
        failures=failures,
        failed_at_s=last_failures(stay.failed_at_s, now_s),
        retry_at_s=now_s + restart_delay_s(failures, jitter),
        reason=reason,
    )


def carry_on(stay: Stay, now_s: float, *before: Instruction) -> Step:
    """Nothing runs any more: the next try, or the end."""
    if stay.after is Phase.BACKOFF:
        return again(stay, now_s, *before)
    return at_rest(stay, stay.after), before


def again(stay: Stay, now_s: float, *before: Instruction) -> Step:
    """The next try: now, or when its time has come."""
    assert stay.retry_at_s is not None
    if stay.retry_at_s <= now_s:
        return spawn(stay, *before)
    return structs.replace(at_rest(stay, Phase.BACKOFF), wake_at_s=stay.retry_at_s), before


def at_rest(stay: Stay, phase: Phase) -> Stay:
    return structs.replace(
        stay, phase=phase, pid=0, wake_at_s=None, deadline_s=None, look_at_s=None
    )


def restarting(stay: Stay, cause: str, now_s: float) -> Step:
    return signalled(
        structs.replace(stay, phase=Phase.RESTARTING, cause=cause, reason=cause), now_s
    )


def signalled(stay: Stay, now_s: float) -> Step:
    grace_s = stay.spec.stop_grace_s
    if grace_s <= 0:
        return killed(stay, now_s)
    look_at_s = now_s + LOOK_AFTER_S if grace_s > LOOK_AFTER_S else None
    # To the main process alone while there is one: what outlives it has nobody else to end it.
    whole_group = stay.spec.stop_to is StopTo.GROUP or stay.pid == 0
    signal = Signal(signal=stay.spec.stop_signal, whole_group=whole_group)
    return until(stay, now_s + grace_s, look_at_s), (signal,)


def drained(stay: Stay, now_s: float) -> Step:
    """It was no endpoint for as long as it was to be: now it is ended as any other."""
    return signalled(structs.replace(stay, phase=Phase.STOPPING, reason=stay.cause), now_s)


def signals_to_the_rest(stay: Stay) -> tuple[Instruction, ...]:
    """The main process has ended as it was told to: what it was alone to be told goes on."""
    if stay.spec.stop_to is StopTo.GROUP or stay.killing:
        return ()
    return (Signal(signal=stay.spec.stop_signal),)


def killed(stay: Stay, now_s: float, *before: Instruction) -> Step:
    killing = until(structs.replace(stay, killing=True), now_s + KILL_AGAIN_S, None)
    return killing, (*before, Signal(signal="KILL"))


def waited(stay: Stay, now_s: float) -> Step:
    """It is being ended and not gone yet."""
    assert stay.deadline_s is not None
    if now_s < stay.deadline_s:
        return until(stay, stay.deadline_s, None), (Look(),)
    if not stay.killing:
        cause = f"{stay.cause}; {not_gone(stay)}: killed"
        stay = structs.replace(stay, cause=cause, reason=cause)
    return killed(stay, now_s, Look())


def until(stay: Stay, deadline_s: float, look_at_s: float | None) -> Stay:
    wake_at_s = deadline_s if look_at_s is None else min(deadline_s, look_at_s)
    return structs.replace(stay, deadline_s=deadline_s, look_at_s=look_at_s, wake_at_s=wake_at_s)


def not_gone(stay: Stay) -> str:
    return f"not gone within {describe_duration(stay.spec.stop_grace_s)}"


def stopped(stay: Stay, *before: Instruction) -> Step:
    return structs.replace(at_rest(stay, Phase.STOPPED), retry_at_s=None), before


def ordinal(number: int) -> str:
    last = number % 10 if number % 100 not in (11, 12, 13) else 0
    ending = {1: "st", 2: "nd", 3: "rd"}.get(last, "th")
    return f"{number}{ending}"
