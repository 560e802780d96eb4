"""Draw how the cost of a cluster grows, of a directory of what `bench/cluster.py --json` wrote.

    python bench/plots.py dist/growth [--out docs/growth]

Makes hosts.svg (more hosts, as many instances on each) and instances.svg (more instances, as many
hosts), log-log with fitted slopes, and table.md; prints the slopes. Needs matplotlib:
`pip install 'formctl[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.curves import PANELS, Panel, Point, Series, point_of, series, slopes, table

COLUMNS, WIDE_IN, HIGH_IN = 3, 4.2, 3.4
LEAST = 1e-3

HEAD = """\
# Figures of a growing cluster

Each row is one phase of one run of `make growth`; what it means: [scale](../scale.md#how-it-grows).

"""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="growth curves of bench/cluster.py")
    parser.add_argument("runs", type=Path, help="a directory of its JSON files")
    parser.add_argument("--out", type=Path, default=Path("docs/growth"))
    return parser.parse_args()


def read(directory: Path) -> list[Point]:
    """What is no run is told and left out."""
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(point_of(json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path}: not a run of bench/cluster.py, left out: {error!r}", file=sys.stderr)
    return found


def draw(growth: Series, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    # The same file for the same figures, and small: its text stays text.
    mpl.rcParams.update({"svg.hashsalt": "formation", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot as plt

    rows = -(-len(PANELS) // COLUMNS)
    size = (WIDE_IN * COLUMNS, HIGH_IN * rows)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=size, constrained_layout=True)
    for panel, axis in zip(PANELS, axes.flat, strict=True):
        draw_panel(growth, panel, axis)
    figure.suptitle(f"{growth.fixed}; the number is the exponent of the fitted line")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_panel(growth: Series, panel: Panel, axis: Any) -> None:
    for line in panel.lines:
        curve = growth.curve(line)
        known = [(x, y) for x, y in curve.points if y >= LEAST]
        if not known:
            continue
        xs = [x for x, _ in known]
        label = f"{line.label}: {curve.fit.slope:.2f}" if curve.fit else line.label
        (drawn,) = axis.plot(xs, [y for _, y in known], "o", markersize=3, label=label)
        if curve.fit:
            fitted = [curve.fit.at(x) for x in xs]
            axis.plot(xs, fitted, "-", linewidth=0.8, color=drawn.get_color())
    axis.set(xscale="log", yscale="log", xlabel=growth.axis, title=panel.title)
    sizes = sorted({growth.size(point) for point in growth.points})
    axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], minor=False)
    axis.xaxis.minorticks_off()
    axis.grid(visible=True, linewidth=0.3)
    if axis.has_data():
        axis.legend(frameon=False, fontsize=6)


def main() -> None:
    options = parsed()
    points = read(options.runs)
    if not points:
        sys.exit(f"plots: no run of bench/cluster.py in {options.runs}: make growth makes some")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(HEAD + table(points), "utf-8")
    for growth in series(points):
        print(f"-- {growth.fixed}")
        print("\n".join(slopes(growth)))
        draw(growth, options.out / f"{growth.name}.svg")


if __name__ == "__main__":
    main()
