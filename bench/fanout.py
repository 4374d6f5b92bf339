"""How far a fan-out scales: a model of 10 to 10,000 slices on six platforms, checked on eight processes.

Prints what was predicted and what was measured of eight processes on a real Kafka, and then the time,
the cost and the bound of clearing 10^9 and 10^12 messages. `--measure` measures anew and prints the
constants to put here; without it the last measurement's are used. `--plot` writes docs/fanout.svg and
the results in bench/README-fanout.md. bench/fanout_model.py is the model, bench/fanout_platforms.py has
every platform's figures and where they are from.

    make bench-fanout [BENCH_ARGS="--measure | --plot | --broker-gb-s 1 10 --partitions 32 …"]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from backlog_clearer.brokers.kafka.options import Reader
from backlog_clearer.fanout.configuration import Backlog
from bench.fanout_measure import PARTITIONS, READERS, SIZE, Measured, line, literal, measure, median
from bench.fanout_model import Bound, Outcome, Platform, shares, simulate
from bench.fanout_platforms import PLATFORMS, Known, figures
from bench.processes import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED = (
    Measured(Reader.HEADERS, 60_000_000, 0.49, 2.25, 3.36e07, 2.76e07, 4.42, 4.35),
    Measured(Reader.CLIENT, 15_000_000, 0.45, 2.18, 1.19e06, 1.71e06, 10.94, 10.02),
)
"""Median rounds of `make bench-fanout BENCH_ARGS=--measure`, which prints these lines."""

TOTALS = (10**9, 10**12)
COUNTS = (10, 100, 1000, 10_000)
CURVE = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
TICKS = (10, 30, 60, 300, 600, 1800, 3600, 10_800, 18_000, 36_000, 86_400, 259_200, 864_000)
MARKERS = "osD^vx"
PLOT = ROOT / "docs" / "fanout.svg"
PAGE, HEADING = ROOT / "bench" / "README-fanout.md", "## Results\n"
_REQUEUES = Backlog.model_fields["max_requeues"].default


class Scene:
    """The conditions of the platforms' slices: a topic, a broker, a network."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.size: int = args.message_bytes
        self.partitions: int = args.partitions
        self.measured = MEASURED[0]
        self.slice_mb_s: float = args.slice_mb_s
        self.rate = min(self.measured.rate * SIZE, args.slice_mb_s * 1e6) / self.size

    def run(self, platform: Platform, messages: int, slices: int, broker_gb_s: float) -> Outcome:
        """So many slices of a topic whose partitions hold the same number of messages each."""
        work = shares([messages / self.partitions] * self.partitions, slices)
        capacity = broker_gb_s * 1e9 / self.size
        return simulate(
            platform, work, rate=self.rate, capacity=capacity, startup_s=self.measured.start_1
        )

    def cell(self, platform: Platform, messages: int, slices: int, broker_gb_s: float) -> str:
        """Time, cost and bound of one run."""
        if slices > platform.most_slices:
            return f"takes {platform.most_slices:,}"
        ran = self.run(platform, messages, slices, broker_gb_s)
        bound: str = ran.bound.value
        if ran.bound is Bound.SLICES and slices >= self.partitions:
            bound = "partitions"
        cost = "cost unknown" if ran.cost is None else f"${ran.cost:,.2f}"
        again = f", !{ran.requeues}" if ran.requeues > _REQUEUES else ""
        return f"{duration(ran.seconds)}, {cost}, {bound}{again}"


def duration(seconds: float, digits: int = 1) -> str:
    """A time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    for most, unit, size in ((7200, "min", 60), (172_800, "h", 3600)):
        if seconds < most:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86_400:,.{digits}f} d"


def power(messages: int) -> str:
    """A power of ten as one writes it."""
    return "10" + str(len(str(messages)) - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def table(scene: Scene, known: Sequence[Known], messages: int, broker_gb_s: float) -> str:
    """All platforms for one backlog and one broker, as a Markdown table."""
    rows = [["platform", *(f"{count:,} slices" for count in COUNTS)], ["---"] * (len(COUNTS) + 1)]
    for item in known:
        cells = [scene.cell(item.platform, messages, count, broker_gb_s) for count in COUNTS]
        rows.append([item.platform.name, *cells])
    lines = ["| " + " | ".join(f"{cell:29}" for cell in row) + " |" for row in rows]
    return (
        f"{power(messages)} messages of {scene.size} B in {scene.partitions:,} partitions,"
        f" a broker of {broker_gb_s:g} GB/s, which needs"
        f" {duration(messages * scene.size / broker_gb_s / 1e9)} at least:\n\n" + "\n".join(lines)
    )


def report(scene: Scene, known: Sequence[Known], brokers: Sequence[float]) -> str:
    """The whole output of the bench."""
    measured = f"{scene.measured.rate / 1e6:.1f}M of {SIZE} B"
    rate = (
        f"A slice reads {scene.rate / 1e6:.2f}M messages a second: the lesser of what the header reader"
        f" was measured at, {measured}, and of a network of {scene.slice_mb_s:g} MB/s (*assumed*)."
    )
    legend = (
        "Time until all slices have ended; cost in US dollars, list prices, without network, storage,"
        " queues and broker; what held the run up for most of its time. !N: a slice is put on again N"
        f" times, and `max_requeues` is {_REQUEUES} unless configured."
    )
    parts = [
        "Predicted and measured, the median rounds:",
        "\n".join(f"- {line(item)}" for item in MEASURED),
        rate,
        *(table(scene, known, messages, broker) for messages in TOTALS for broker in brokers),
        legend,
        "The figures behind it; *italics*: assumed, since no page was found.",
        figures(known),
    ]
    return "\n\n".join(parts) + "\n"


def write(text: str) -> None:
    """Put the report on its page, below the heading that is the page's last."""
    before, _, _ = PAGE.read_text().partition(HEADING)
    PAGE.write_text(f"{before}{HEADING}\n{text}")
    print(f"{PAGE.relative_to(ROOT)} is written.")


def plot(scene: Scene, known: Sequence[Known], broker_gb_s: float) -> None:
    """Time against slices, one line a platform, one panel a backlog."""
    import matplotlib as mpl  # noqa: PLC0415 only the plot needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    # The same ids at every run: the file changes where its lines do.
    with mpl.rc_context({"svg.hashsalt": "fanout", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8.5, 4), layout="constrained")
        panels = figure.subplots(1, len(TOTALS))
        for axes, messages in zip(panels, TOTALS, strict=True):
            _panel(axes, scene, known, messages, broker_gb_s)
        panels[0].set_ylabel("until all slices have ended")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(PLOT, metadata={"Date": None}, facecolor="white")
    print(f"{PLOT.relative_to(ROOT)} is written.")


def _panel(axes: Axes, scene: Scene, known: Sequence[Known], messages: int, broker_gb_s: float) -> None:
    least = messages * scene.size / broker_gb_s / 1e9
    axes.axhline(least, color="black", linewidth=0.8, linestyle=":", label="the broker's own limit")
    for item, marker in zip(known, MARKERS, strict=True):
        seconds = [scene.run(item.platform, messages, n, broker_gb_s).seconds for n in CURVE]
        axes.plot(CURVE, seconds, marker=marker, markersize=4, linewidth=1.1, label=item.platform.name)
    axes.set(xscale="log", yscale="log", xlabel="slices")
    axes.set_title(f"{power(messages)} messages, a broker of {broker_gb_s:g} GB/s", fontsize=9)
    low, high = axes.get_ylim()
    ticks = [seconds for seconds in TICKS if low <= seconds <= high]
    axes.set_yticks(ticks, [duration(seconds, 0) for seconds in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xticks(COUNTS, [f"{count:,}" for count in COUNTS])
    axes.grid(visible=True, linewidth=0.3)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure on a real Kafka first")
    parser.add_argument("--messages", type=int, default=60_000_000, help="to measure with")
    parser.add_argument("--rounds", type=int, default=3, help="of measurements; medians are used")
    parser.add_argument("--plot", action="store_true", help="write docs/fanout.svg and the page")
    parser.add_argument(
        "--broker-gb-s", type=float, nargs="+", default=[1, 10], help="it sends at most"
    )
    parser.add_argument(
        "--slice-mb-s", type=float, default=125, help="a slice's network carries at most (assumed)"
    )
    parser.add_argument("--message-bytes", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=10_000)
    names = ", ".join(item.key for item in PLATFORMS)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="PLATFORM.FIELD=NUMBER", help=f"another figure; {names}"
    )
    return parser.parse_args()


def changed(known: Sequence[Known], settings: Sequence[str]) -> list[Known]:
    """The platforms with the figures that `--set` names; ends the program for an unknown name."""
    named = {field.name: field for field in fields(Platform) if field.name != "name"}
    found = {item.key: item for item in known}
    for setting in settings:
        key, _, rest = setting.partition(".")
        name, _, value = rest.partition("=")
        try:
            figure = {named[name].name: float(value)}
            platform = replace(found[key].platform, **figure)  # type: ignore[arg-type] # a field by its name
        except (KeyError, ValueError):
            raise SystemExit(
                f"--set {setting}: give PLATFORM.FIELD=NUMBER, with PLATFORM one of"
                f" {', '.join(found)} and FIELD one of {', '.join(named)}."
            ) from None
        found[key] = replace(found[key], platform=platform)
    return list(found.values())


def main() -> None:
    """Check the model, then use it."""
    args = options()
    if args.measure:
        print(f"Eight processes on a real Kafka, {SIZE} B, {PARTITIONS} partitions:")
        found = measure(args.messages, args.rounds)
        print("The median rounds, for bench/fanout.py:")
        for reader in READERS:
            print(literal(median(found, reader)))
        return
    known = changed(PLATFORMS, args.set)
    scene = Scene(args)
    text = report(scene, known, args.broker_gb_s)
    print(text)
    if args.plot:
        write(text)
        plot(scene, known, max(args.broker_gb_s))


if __name__ == "__main__":
    main()
