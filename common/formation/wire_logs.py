"""Log lines and what is missing of them, between their messages and ours."""

from __future__ import annotations

from formation.gaps import Gap, words
from formation.v1 import agent_pb2 as pb

_GAPS: dict[Gap, pb.LogGap.ValueType] = {
    Gap.NONE: pb.LOG_GAP_UNSPECIFIED,
    Gap.ROTATED: pb.LOG_GAP_ROTATED,
    Gap.AWAY: pb.LOG_GAP_AWAY,
    Gap.HOST_LOST: pb.LOG_GAP_HOST_LOST,
    Gap.HOST_BACK: pb.LOG_GAP_HOST_BACK,
}
_FROM_PB = {number: gap for gap, number in _GAPS.items()}


def gap_to_pb(gap: Gap) -> pb.LogGap.ValueType:
    return _GAPS[gap]


def gap_from_pb(number: pb.LogGap.ValueType) -> Gap:
    """One that only newer programs know is still a gap."""
    return _FROM_PB.get(number, Gap.ROTATED)


def host_gap(gap: Gap, host: str, at_us: int, *, whole: bool = True) -> pb.LogLine:
    """Of a whole host."""
    text = words(gap, host=host, whole=whole)
    return pb.LogLine(host=host, at_us=at_us, gap=_GAPS[gap], text=text.encode())
