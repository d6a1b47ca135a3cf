#!/usr/bin/env python3
"""Draws lists.svg from api-postgresql.csv: the median time of four requests by the number of jobs, beside upstream's own figures.

The same data always gives the same bytes. A test compares the labels of the chart with the data.
"""
import csv
import math
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUESTS = {
    "one job": "one job",
    "list of 50, names and teams": "list of 50 jobs",
    "the 50 newest executions": "50 newest executions",
    "the operations page's list of 50 (with totals and 10 executions each)": "operations page's list of 50",
}
LEFT, WIDTH, BAR, GAP, TOP = 300, 420, 15, 14, 64


def bars():
    """(request, [(who, jobs, milliseconds)]) in the order of the chart."""
    with open(HERE / "api-postgresql.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["clients"] == "1"]
    for name, label in REQUESTS.items():
        found = []
        for row in (row for row in rows if row["request"] == name):
            found.append(("Holdfast", int(row["jobs"]), row["p50_ms"]))
            if row["upstream_p50_ms"]:
                found.append(("upstream", int(row["jobs"]), row["upstream_p50_ms"]))
        yield label, sorted(found, key=lambda bar: bar[:2])


def main():
    groups = list(bars())
    height = TOP + sum(len(found) * BAR + GAP for _, found in groups) + 12
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{height}" viewBox="0 0 860 {height}" role="img"'
        ' aria-labelledby="title">',
        '<title id="title">Median response times on PostgreSQL by number of jobs, Holdfast and upstream</title>',
        "<style>text{font:12px Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#1f2328}.h{font-weight:bold}.ours{fill:#1a7f37}.theirs{fill:#8c959f}</style>",
        f'<rect width="860" height="{height}" fill="#ffffff"/>',
        '<text class="h" x="12" y="24">Median response time in ms on PostgreSQL, one client (logarithmic scale)</text>',
        f'<rect class="ours" x="12" y="38" width="12" height="12"/><text x="30" y="48">Holdfast</text>',
        f'<rect class="theirs" x="100" y="38" width="12" height="12"/><text x="118" y="48">upstream: its own figures, on a machine of the'
        " same size</text>",
    ]
    y = TOP
    for label, found in groups:
        out.append(f'<text class="h" x="12" y="{y + 12}">{escape(label)}</text>')
        for who, jobs, milliseconds in found:
            # 0.1 ms to 10 s.
            width = round(WIDTH * (math.log10(float(milliseconds)) + 1) / 5, 1)
            kind = "ours" if who == "Holdfast" else "theirs"
            out.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{jobs:,} jobs</text>')
            out.append(f'<rect class="{kind}" x="{LEFT}" y="{y + 2}" width="{width}" height="{BAR - 4}"/>')
            out.append(f'<text x="{LEFT + width + 6}" y="{y + 12}">{milliseconds} ms</text>')
            y += BAR
        y += GAP
    (HERE / "lists.svg").write_text("\n".join(out) + "\n</svg>\n", encoding="utf-8")


if __name__ == "__main__":
    main()
