"""Writes what benchmarks.serving measured into docs/benchmarks.md, as tables, and docs/benchmarks.svg, as a plot.

python -m benchmarks.report
"""

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib import pyplot

from benchmarks.columns import CONNECTIONS, HIGH, MANY, OPEN_RATE
from benchmarks.lineup import OURS, all_servers
from benchmarks.results import RESULTS, Results
from benchmarks.servers import PEERS, ROOT, Server

PAGE, PLOT = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.svg"
_TIE = 0.03  # figures within this fraction of the best one are best too
_HELD = 0.9  # a server that answers less than this fraction of a fixed rate, which is random, does not keep up with it
_PANELS = {64: "requests/s, 64 connections", 256: "requests/s, 256 connections"}


class Figure(NamedTuple):
    """A table's cell: the value that is compared, None where it cannot be, and the text."""

    value: float | None
    text: str


@dataclass(frozen=True)
class Column:
    """A column of a table and, where `panel` is its title, a panel of the plot."""

    title: str
    figure: Callable[[Server], Figure]
    less_is_better: bool = False
    panel: str = ""

    def best(self, servers: Sequence[Server]) -> list[Server]:
        """The servers with the best figure, or within _TIE of it."""
        values = [(server, value) for server in servers if (value := self.figure(server).value) is not None]
        best = (min if self.less_is_better else max)((value for _, value in values), default=0.0)
        return [server for server, value in values if abs(value - best) <= _TIE * best]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Writes docs/benchmarks.md.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of benchmarks.serving (%(default)s)")
    options = parser.parse_args(argv)
    if not options.results.exists():
        print(f"there is no {options.results}: python -m benchmarks.serving makes it", file=sys.stderr)
        return 1
    results = Results(options.results)
    servers = [server for server in all_servers() if results.values(server.name, "start", "seconds")]
    tables = make_tables(results)
    parts = [describe(results, servers), *(f"{title}\n\n{draw(columns, servers)}" for title, columns in tables.items())]
    text = "\n\n".join(parts)
    print(text)
    before, after = PAGE.read_text().split("<!-- measured -->\n")[0], PAGE.read_text().split("<!-- /measured -->")[1]
    PAGE.write_text(f"{before}<!-- measured -->\n{text}\n<!-- /measured -->{after}")
    plot([column for columns in tables.values() for column in columns], servers)
    return 0


def make_tables(results: Results) -> dict[str, list[Column]]:
    """The columns of each table, by the table's heading."""
    high = f"{results.median(OURS, HIGH, 'rate') or 0:,.0f}/s, 80 % of ours"
    return {
        "Requests a second with an image of 32×32 each, by connections:": [
            Column(f"{count:,}", _median(results, str(count), "requests_per_s"), panel=_PANELS.get(count, ""))
            for count in CONNECTIONS
        ],
        "Milliseconds in which 99 % of them are answered, one after the other and where they come at a fixed rate:": [
            Column("64 connections", _median(results, "64", "p99_ms"), less_is_better=True),
            Column(f"{OPEN_RATE:,}/s", _held(results, "open"), True, f"p99 ms at {OPEN_RATE}/s"),
            Column(high, _held(results, HIGH), less_is_better=True),
        ],
        "Images a second, where each takes more work, or many come at once:": [
            Column(
                f"{MANY} in a request", _median(results, "batch", "images_per_s"), panel=f"images/s, {MANY} a request"
            ),
            Column("photographs", _median(results, "photos", "requests_per_s"), panel="photographs/s"),
            Column("ResNet-18", _median(results, "resnet18", "requests_per_s", 1), panel="images/s, ResNet-18"),
        ],
        "What it costs, and what is lost when the process that runs the network is killed:": [
            Column("MB of memory", _median(results, "memory", "megabytes"), True, "MB of memory"),
            Column("s to the first answer", _median(results, "start", "seconds", 1), True, "s to the first answer"),
            Column("lines to write", _written, less_is_better=True),
            Column("requests lost of 3,000, unwell for", partial(_lost, results), less_is_better=True),
        ],
    }


def _median(results: Results, column: str, name: str, digits: int = 0) -> Callable[[Server], Figure]:
    def figure(server: Server) -> Figure:
        value = results.median(server.name, column, name)
        if value is None:
            return Figure(None, "–")
        failed = max(results.values(server.name, column, "failed"), default=0)
        return Figure(value, f"{value:,.{digits}f}" + (f" ({failed:,} failed)" if failed else ""))

    return figure


def _held(results: Results, column: str) -> Callable[[Server], Figure]:
    """p99 at a fixed rate; of a server that does not keep up with it, what it answered instead."""

    def figure(server: Server) -> Figure:
        rate, answered = (results.median(server.name, column, name) for name in ("rate", "requests_per_s"))
        if rate is not None and answered is not None and answered < _HELD * rate:
            return Figure(None, f"only {answered:,.0f}/s")
        return _median(results, column, "p99_ms")(server)

    return figure


def _lost(results: Results, server: Server) -> Figure:
    lost, unwell_s = (results.values(server.name, "killed", name) for name in ("lost", "unwell_s"))
    return Figure(max(lost), f"{max(lost):,}, {max(unwell_s):.1f} s") if lost else Figure(None, "–")


def _written(server: Server) -> Figure:
    count = sum(lines_of_code(PEERS / name) for name in server.written)
    return Figure(count, str(count))


def lines_of_code(path: Path) -> int:
    """How many lines are neither blank nor a comment nor the docstring at the top."""
    lines = path.read_text().splitlines()
    if path.suffix == ".py" and ast.get_docstring(module := ast.parse(path.read_text())):
        lines = lines[module.body[0].end_lineno :]
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)


def describe(results: Results, servers: Sequence[Server]) -> str:
    (*_, machine) = [line for line in results.lines if line["column"] == "machine"]
    versions = {server.distribution: results.values(server.name, "start", "version")[-1] for server in servers}
    rounds = max(line["round"] for line in results.lines)
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['gigabytes']} GB; Python {machine['python']}, "
        f"torch {machine['torch']}, {', '.join(f'{name} {version}' for name, version in versions.items())}. "
        f"Rounds: {rounds}, medians; of what is lost, the most. The best of each column, and what is within "
        f"{_TIE:.0%} of it, is bold."
    )


def draw(columns: Sequence[Column], servers: Sequence[Server]) -> str:
    """A table in Markdown, with a row for each server."""
    best = [column.best(servers) for column in columns]
    rows = [["", *(column.title for column in columns)], ["---", *("---:" for _ in columns)]]
    for server in servers:
        texts = [column.figure(server).text for column in columns]
        bold = [f"**{text}**" if server in leaders else text for text, leaders in zip(texts, best, strict=True)]
        rows.append([f"`{server.name}`" if server.name.startswith(OURS) else server.name, *bold])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(columns: Sequence[Column], servers: Sequence[Server]) -> None:
    """Draws a panel for each column that has a title for one, with a bar for each server."""
    matplotlib.use("svg")
    pyplot.rcParams.update({"svg.hashsalt": "", "font.size": 8, "axes.spines.right": False, "axes.spines.top": False})
    shown = [column for column in columns if column.panel]
    figure, axes = pyplot.subplots(2, len(shown) // 2, figsize=(13, 0.4 * len(servers) + 2), sharey=True)
    colours = ["tab:orange" if server.name.startswith(OURS) else "tab:grey" for server in servers]
    for axis, column in zip(axes.flat, shown, strict=True):
        figures = [column.figure(server) for server in servers]
        bars = axis.barh([server.name for server in servers], [value or 0 for value, _ in figures], color=colours)
        axis.bar_label(bars, [text for _, text in figures], padding=2, fontsize=7)
        axis.set_title(f"{column.panel}{' (less is better)' if column.less_is_better else ''}", fontsize=9, loc="left")
        axis.margins(x=0.2)
        axis.set_xticks([])
    axes.flat[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
