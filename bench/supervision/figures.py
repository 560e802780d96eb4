"""What was measured, and how it is shown: medians, ranges and ratios to Formation. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "formation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """`aim` is for people; values are in `unit`, and `more` says that more of it is better."""

    key: str
    title: str
    unit: str
    aim: str = ""
    more: bool = False
    digits: int = 3


@dataclass(slots=True, kw_only=True)
class Row:
    """One contestant's values, one of each round."""

    values: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Figures:
    """Everything of one run."""

    def __init__(self) -> None:
        self._measures: dict[str, Measure] = {}
        self._rows: dict[str, dict[str, Row]] = {}
        self.failures: list[str] = []

    def add(
        self, measure: Measure, contestant: str, values: Iterable[float], note: str = ""
    ) -> None:
        self._measures[measure.key] = measure
        row = self._rows.setdefault(measure.key, {}).setdefault(contestant, Row())
        row.values += values
        if note and note not in row.notes:
            row.notes.append(note)

    def table(self) -> str:
        sections = [
            "\n".join(_section(measure, self._rows[key])) for key, measure in self._measures.items()
        ]
        failed = [f"failed: {text}" for text in self.failures]
        return "\n\n".join([*sections, *failed])

    def as_json(self) -> dict[str, Any]:
        return {
            key: {
                "title": measure.title,
                "unit": measure.unit,
                "aim": measure.aim,
                "contestants": {
                    name: {"values": row.values, "notes": row.notes}
                    for name, row in self._rows[key].items()
                },
            }
            for key, measure in self._measures.items()
        }


def _section(measure: Measure, rows: Mapping[str, Row]) -> Iterable[str]:
    aim = f"; aim: {measure.aim}" if measure.aim else ""
    yield f"{measure.title} ({measure.unit}{aim})"
    ours = rows[OURS].median if OURS in rows and rows[OURS].values else 0.0
    width = max(22, *map(len, rows))
    for name, row in rows.items():
        notes = f"  {'; '.join(row.notes)}" if row.notes else ""
        if not row.values:
            yield f"  {name:<{width}}{'-':>14}{'':>26}{notes}"
            continue
        cells = (
            f"{_number(row.median, measure.digits):>14}",
            f"{_range(row.values, measure.digits):>22}",
            f"{_ratio(row.median, ours):>10}" if len(rows) > 1 else "",
        )
        yield f"  {name:<{width}}{''.join(cells)}{notes}".rstrip()


def _range(values: Sequence[float], digits: int) -> str:
    if len(values) == 1:
        return ""
    return f"{_number(min(values), digits)} - {_number(max(values), digits)}"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _ratio(value: float, ours: float) -> str:
    if not ours:
        return ""
    ratio = value / ours
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:,.0f}x"
