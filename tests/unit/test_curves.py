"""How growth is found in runs of `bench/cluster.py`: fits, series, the table."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.curves import PANELS, Line, Point, fit, point_of, series, slopes, table


def point(hosts: int, instances: int, **up: float) -> Point:
    figures: dict[str, Any] = {"title": f"0 -> {instances}", **up}
    return Point(hosts, instances, {"up": figures})


@pytest.mark.parametrize(
    ("points", "slope", "factor"),
    [
        ([(1, 2), (10, 20), (100, 200)], 1.0, 2.0),
        ([(10, 5), (1_000, 5)], 0.0, 5.0),
        ([(2, 4), (4, 16), (8, 64)], 2.0, 1.0),
        # What took no time has no logarithm, and says nothing.
        ([(1, 0), (10, 20), (100, 200)], 1.0, 2.0),
    ],
)
def test_a_power_law_is_found_again(
    points: list[tuple[float, float]], slope: float, factor: float
) -> None:
    found = fit(points)
    assert found is not None
    assert found.slope == pytest.approx(slope)
    assert found.factor == pytest.approx(factor)
    assert found.at(50) == pytest.approx(factor * 50**slope)


def test_what_scatters_is_fitted_between() -> None:
    found = fit([(1, 1), (1, 4), (100, 100), (100, 400)])
    assert found is not None
    assert (found.slope, found.factor) == pytest.approx((1.0, math.sqrt(4)))


@pytest.mark.parametrize("points", [[], [(3, 4)], [(3, 4), (3, 5)], [(3, 4), (5, 0)]])
def test_one_size_has_no_growth(points: list[tuple[float, float]]) -> None:
    assert fit(points) is None


def test_runs_are_of_more_hosts_or_of_more_instances_or_of_both() -> None:
    points = [point(h, h * 100) for h in (50, 100, 200)]
    points += [point(200, n) for n in (40_000, 80_000)]
    hosts, instances = series(points)
    assert (hosts.fixed, [p.hosts for p in hosts.points]) == (
        "100 instances on each host",
        [50, 100, 200],
    )
    assert (instances.fixed, [p.instances for p in instances.points]) == (
        "200 hosts",
        [20_000, 40_000, 80_000],
    )


def test_a_single_run_is_no_series() -> None:
    assert series([]) == []
    assert series([point(200, 20_000)]) == []


def test_a_figure_that_a_run_has_not_is_left_out_of_its_curve() -> None:
    points = [
        point(50, 5_000, etcd_puts=100),
        point(100, 10_000),
        point(200, 20_000, etcd_puts=400),
    ]
    (hosts,) = [item for item in series(points) if item.name == "hosts"]
    curve = hosts.curve(Line("0 → N", "up", ("etcd_puts",)))
    assert [*curve.points] == [(50, 100), (200, 400)]
    assert curve.fit is not None
    assert curve.fit.slope == pytest.approx(1.0)
    assert slopes(hosts) == ["puts in etcd: 0 → N: ~ hosts^1.00"]


def test_bytes_of_both_directions_are_added_up() -> None:
    both = point(1, 1, bytes_to_hosts=3, bytes_from_hosts=4)
    assert both.figure("up", "bytes_to_hosts", "bytes_from_hosts") == 7
    assert both.figure("up", "bytes_to_hosts", "nothing of that name") is None
    assert both.figure("no such phase", "bytes_to_hosts") is None


def test_every_line_of_every_panel_has_a_name_of_its_own() -> None:
    for panel in PANELS:
        assert len({line.label for line in panel.lines}) == len(panel.lines), panel.title


def test_the_table_has_a_row_for_each_phase_of_each_run() -> None:
    run = {
        "options": {"hosts": 200, "instances": 20_000},
        "phases": [
            {"phase": "up", "title": "0 -> 20000", "took_s": 9.0, "healthy_s": 3.71, "p50_s": 2.0,
             "etcd_puts": 404.0, "coordinator_memory": 137_000_000, "bytes_to_hosts": 2_400_000},
            {"phase": "idle", "title": "idle", "took_s": 60.01, "etcd_puts": 0.0},
        ],
    }  # fmt: skip
    lines = table([point_of(run)]).splitlines()
    assert lines[0].startswith("| hosts, instances | phase | time until all is done, s | p50, s |")
    # When all was healthy, not when etcd was quiet again.
    assert lines[2].startswith("| 200, 20,000 | 0 -> 20000 | 3.71 | 2.00 |  |  | 404 |  |")
    assert lines[2].endswith("| 137 | 2.4 |  |")
    assert lines[3].startswith("| 200, 20,000 | idle | 60.0 |  |  |  | 0 |")
    assert len(lines) == 4
