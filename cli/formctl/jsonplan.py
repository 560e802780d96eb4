"""Plans and explanations → plain values for `-o json`. Pure. Keys are stable: docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterable

from formctl.jsonview import Json
from formctl.renderchange import Explanation, Plan, Spread, Verdict
from formctl.views import Instance


def plan(found: Plan) -> Json:
    return {
        "revision": found.revision,
        "steps_total": sum(found.totals.values()),
        "steps": [
            {
                "kind": step.kind,
                "instance": f"{step.type}.{step.ordinal}",
                "from_host": step.from_host or None,
                "to_host": step.to_host or None,
                "reason": step.reason,
            }
            for step in found.steps
        ],
        "unplaced": [
            {
                "type": item.type,
                "count": item.count,
                "reason": item.reason,
                "remedy": item.remedy or None,
                "hosts": verdicts(item.hosts),
            }
            for item in found.unplaced
        ],
        "types": spreads(found.types),
        "notes": list(found.notes),
    }


def spreads(types: Iterable[Spread]) -> list[Json]:
    return [
        {
            "app": item.app,
            "type": item.type,
            "before": item.before,
            "after": item.after,
            "skew_before": item.skew_before,
            "skew_after": item.skew_after,
        }
        for item in types
    ]


def explanation(found: Explanation, instance: Instance) -> Json:
    return {
        "app": instance.slot.app,
        "instance": instance.slot.short,
        "host": instance.host or None,
        "reason": found.reason,
        "remedy": found.remedy or None,
        "hosts": verdicts(found.hosts),
    }


def verdicts(hosts: Iterable[Verdict]) -> list[Json]:
    return [
        {
            "host": verdict.host,
            "fits": verdict.fits,
            "rank": verdict.rank or None,
            "current": verdict.current,
            "checks": [
                {"name": check.name, "passed": check.passed, "detail": check.detail}
                for check in verdict.checks
            ],
            "terms": {term.name: term.value for term in verdict.terms},
        }
        for verdict in hosts
    ]
