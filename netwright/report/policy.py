"""Charts of what the controller would draw: options over trials, and connections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from netwright.report.html import INK, MUTED, clean, shorten
from netwright.report.plots import Snapshots, new_figure, plain, to_svg
from netwright.space import Choice, Connections, Option, SearchSpace

COLUMNS, MOST_KEYS, SHADES = 20, 12, 10
MOST_STACKED, FEW_CELLS = 6, 4  # rows of few cells but more options than stack well are heat maps
WORDS = ("#4a79ab", "#d59a4f", "#6aa584", "#a182c4", "#c66f7f", "#8c939d", "#c9b458", "#5aa9b5")


@dataclass
class _Grid:
    """Small charts in rows of one kind and options, and columns of one layer."""

    columns: list[str] = field(default_factory=list)
    rows: dict[tuple[str, tuple[Option, ...]], dict[str, Choice]] = field(default_factory=dict)


def _grid(space: SearchSpace) -> _Grid:
    grid = _Grid()
    for decision in space.decisions:
        if not isinstance(decision, Choice):
            continue
        column = decision.name.rpartition(".")[0]
        if column not in grid.columns:
            grid.columns.append(column)
        row = grid.rows.setdefault((decision.kind, decision.options), {})
        if column in row:
            row = grid.rows.setdefault((decision.name, decision.options), {})
        row[column] = decision
    return grid


def option_colours(options: Sequence[Option]) -> list[str]:
    """Return a colour for each option: a ramp for numbers, apart from each other for words."""
    if all(not isinstance(option, str) for option in options):
        ramp = mpl.colormaps["Blues"]
        last = max(len(options) - 1, 1)
        return [to_hex(ramp(0.22 + 0.7 * k / last)) for k in range(len(options))]
    return [WORDS[k % len(WORDS)] for k in range(len(options))]


def options(space: SearchSpace, snapshots: Snapshots, what: str = "Probability") -> list[str]:
    """Return charts of the probability of each option over the trials told, stacked.

    what: what the numbers are, for the charts' names; "Probability" or "Share".
    Rows are kinds of decisions, columns layers, 20 layers a chart. Decisions that no snapshot
    speaks of are left out, and those of `many_options`; [] where that leaves none.
    """
    grid = _grid(space)
    known = {name for _, snapshot in snapshots for name in snapshot.options}
    charts = []
    for start in range(0, len(grid.columns), COLUMNS):
        columns = grid.columns[start : start + COLUMNS]
        rows = {
            key: cells
            for key, row in grid.rows.items()
            if not _many(key[1], row)
            and (cells := {c: row[c] for c in columns if c in row and row[c].name in known})
        }
        columns = [c for c in columns if any(c in cells for cells in rows.values())]
        if rows:
            charts.append(_chart(rows, columns, snapshots, f"options{_letters(start)}", what))
    return charts


def _letters(n: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(n))


def _chart(
    rows: dict[tuple[str, tuple[Option, ...]], dict[str, Choice]],
    columns: Sequence[str],
    snapshots: Snapshots,
    name: str,
    what: str,
) -> str:
    label, cell_width = 96.0, 110.0
    legend = max(_key_width(values) for _, values in rows)
    cell = min(cell_width, (1040 - label - legend) / len(columns))
    width, high = label + legend + cell * len(columns), 62.0
    figure = Figure(figsize=(width / 96, (high * len(rows) + 46) / 96))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(high * len(rows) + 46, 0)
    axes.set_axis_off()
    for k, column in enumerate(columns):
        text = shorten(column.removeprefix("layer"), max(3, int(cell / 7)))
        _write(axes, label + cell * (k + 0.5), 12, text, 11, MUTED, ha="center")
    if any(column.startswith("layer") for column in columns):
        _write(axes, label - 12, 12, "layer", 11, MUTED, ha="right")
    for r, ((kind, values), cells) in enumerate(rows.items()):
        top = 22 + high * r
        _write(
            axes,
            label - 12,
            top + high / 2,
            shorten(kind.replace("_", " "), 14),
            12,
            INK,
            ha="right",
        )
        colours = option_colours(values)
        for k, column in enumerate(columns):
            if column in cells:
                x = label + cell * k
                box = (x + 2, top + 3, min(cell - 4, cell_width - 4), high - 7)
                _stack(axes, cells[column], snapshots, box, colours)
        _key(axes, values, colours, label + cell * len(columns) + 12, top + 3, high - 7)
    ends = f"{snapshots[0][0]:,} to {snapshots[-1][0]:,} trials told, left to right in each box"
    _write(axes, label, high * len(rows) + 34, ends, 11, MUTED)
    return to_svg(figure, name, f"{what} of each option over trials, by kind and layer")


def _write(
    axes: Axes, x: float, y: float, text: str, size: float, colour: str, ha: str = "left"
) -> None:
    axes.text(
        x,
        y,
        clean(text),
        fontsize=size * 0.75,
        color=colour,
        ha=ha,
        va="center",
        parse_math=False,
    )


def _stack(
    axes: Axes,
    choice: Choice,
    snapshots: Snapshots,
    box: tuple[float, float, float, float],
    colours: Sequence[str],
) -> None:
    """Draw the options' shares from bottom to top in `box` (x, y, width, height)."""
    x, y, width, height = box
    points = [
        (n, p)
        for n, snapshot in snapshots
        if len(p := snapshot.options.get(choice.name, ())) == len(choice.options)
    ]
    if not points:
        return
    first, last = snapshots[0][0], snapshots[-1][0]
    xs = [x + width * (n - first) / max(last - first, 1) for n, _ in points]
    shares = [p for _, p in points]
    if len(points) == 1:
        xs, shares = [x, x + width], shares * 2
    floor = [y + height] * len(xs)
    for k, colour in enumerate(colours):
        ceiling = [f - height * p[k] for f, p in zip(floor, shares, strict=True)]
        axes.fill(
            [*xs, *reversed(xs)],
            [*ceiling, *reversed(floor)],
            facecolor=colour,
            edgecolor="#ffffff",
            linewidth=0.4,
            gid=clean(f"{choice.name}={choice.options[k]}"),
        )
        floor = ceiling


def _key_shape(values: Sequence[Option]) -> tuple[int, int]:
    """Return (columns, letters a column) of the key to `values`."""
    across = -(-min(len(values), MOST_KEYS) // 4)
    return across, min(max(len(str(v)) for v in values[:MOST_KEYS]), (18, 10, 6)[across - 1])


def _key_width(values: Sequence[Option]) -> float:
    across, length = _key_shape(values)
    return 20 + across * (22 + 7.0 * length)


def _key(
    axes: Axes, values: Sequence[Option], colours: Sequence[str], x: float, y: float, height: float
) -> None:
    """Draw what the colours mean, in the order of the stack, in as many columns as needed."""
    shown = list(zip(values, colours, strict=True))[:MOST_KEYS]
    _, length = _key_shape(values)
    for i, (value, colour) in enumerate(shown):
        left = x + (i // 4) * (22 + 7.0 * length)
        low = y + height - 6 - (i % 4) * 14
        axes.fill(
            [left, left + 9, left + 9, left],
            [low - 4.5, low - 4.5, low + 4.5, low + 4.5],
            color=colour,
        )
        _write(axes, left + 14, low, shorten(value, length), 11, INK)


# --- many options -------------------------------------------------------------------------------


def _many(options: Sequence[Option], row: Mapping[str, Choice]) -> bool:
    return len(options) > MOST_STACKED and len(row) <= FEW_CELLS


def many_options(space: SearchSpace, snapshots: Snapshots, what: str = "Probability") -> str:
    """Return heat maps, options over trials told, of decisions with too many options to stack.

    "" where there are none, or no snapshot speaks of them.
    """
    told = [
        (choice, known)
        for (_, options), row in _grid(space).rows.items()
        if _many(options, row)
        for choice in row.values()
        if (
            known := [
                (n, s.options[choice.name])
                for n, s in snapshots
                if len(s.options.get(choice.name, ())) == len(options)
            ]
        )
    ]
    if not told:
        return ""
    across = min(len(told), 2)
    down = -(-len(told) // 2)
    most = max(len(choice.options) for choice, _ in told)
    figure = new_figure(520 * across, down * (90 + 14 * min(most, 40)))
    grid = figure.subplots(down, across, squeeze=False)
    places = [axes for row in grid for axes in row]
    top = max(max(p) for _, known in told for _, p in known)
    ceiling = max(math.ceil(top * 10) / 10, 0.1)
    ramp = _steps("Blues", SHADES, 0.02, 0.95)
    for axes, (choice, known) in zip(places, told, strict=False):
        _bands(axes, choice, known, ramp, ceiling)
    for axes in places[len(told) :]:
        axes.set_axis_off()
    shades = ScalarMappable(Normalize(0, ceiling), ramp)
    bar = figure.colorbar(shades, ax=places, shrink=0.8, aspect=24)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    return to_svg(figure, "many", f"{what} of each of many options over trials")


def _bands(
    axes: Axes,
    choice: Choice,
    known: Sequence[tuple[int, tuple[float, ...]]],
    ramp: Colormap,
    ceiling: float,
) -> None:
    """Draw one decision: a row an option; a snapshot lasts until the next; equal shades join."""
    starts = [n for n, _ in known]
    step = max(1, (starts[-1] - starts[0]) // max(1, len(starts) - 1))
    ends = [*starts[1:], starts[-1] + step]
    count = len(choice.options)
    for k, option in enumerate(choice.options):
        runs: list[tuple[float, float]] = []
        colours: list[str] = []
        for start, end, (_, p) in zip(starts, ends, known, strict=True):
            colour = to_hex(ramp(p[k] / ceiling))
            if colours and colours[-1] == colour:
                runs[-1] = (runs[-1][0], end - runs[-1][0])
            else:
                runs.append((start, end - start))
                colours.append(colour)
        gid = clean(f"{choice.name}={option}")
        axes.broken_barh(runs, (k, 1), facecolors=colours, gid=gid)
    axes.set_xlim(starts[0], ends[-1])
    axes.set_ylim(0, count)
    plain(axes, "trials told")
    axes.grid(visible=False)
    axes.set_title(clean(choice.name), fontsize=10, color=INK, parse_math=False)
    every = -(-count // 40)
    axes.yaxis.set_ticks([k + 0.5 for k in range(0, count, every)])
    names = [shorten(option, 14) for option in choice.options][::every]
    for tick in axes.yaxis.set_ticklabels(names):
        tick.set_parse_math(False)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# --- connections --------------------------------------------------------------------------------


def connection_matrix(
    space: SearchSpace, taken: Sequence[tuple[str, tuple[float, ...]]]
) -> tuple[list[str], list[list[float]]]:
    """Return (anchors, matrix): matrix[i][j] the probability that anchor i takes anchor j.

    NaN stands where j cannot feed i, or nothing is known of it.
    """
    anchors = list(space.anchors)
    index = {anchor: i for i, anchor in enumerate(anchors)}
    nan = float("nan")
    matrix = [[nan] * len(anchors) for _ in anchors]
    for name, probabilities in taken:
        decision = space[name]
        if isinstance(decision, Connections) and len(probabilities) == len(decision.sources):
            for source, p in zip(decision.sources, probabilities, strict=True):
                matrix[index[decision.anchor]][index[source]] = p
    return anchors, matrix


def connections(space: SearchSpace, snapshots: Snapshots, what: str = "Probability") -> str:
    """Return heat maps: which layer feeds which at first, at last, and the change between.

    "" where no snapshot speaks of connections.
    """
    told = [(n, s) for n, s in snapshots if any(s.connections.values())]
    if not told:
        return ""
    anchors, last = connection_matrix(space, list(told[-1][1].connections.items()))
    ramp = _steps("Blues", 10, 0.02, 0.95)
    if len(told) == 1:
        figure = new_figure(460, 400)
        axes = figure.add_subplot()
        _heat(figure, axes, anchors, last, ramp, (0, 1), f"after {told[0][0]:,} trials")
        return to_svg(figure, "connections", f"{what} in which each layer takes each earlier one")
    _, first = connection_matrix(space, list(told[0][1].connections.items()))
    change = [[b - a for a, b in zip(x, y, strict=True)] for x, y in zip(first, last, strict=True)]
    figure = new_figure(1040, 330)
    left, middle, right = figure.subplots(1, 3)
    _heat(figure, left, anchors, first, ramp, (0, 1), f"after {told[0][0]:,} trials")
    _heat(figure, middle, anchors, last, ramp, (0, 1), f"after {told[-1][0]:,} trials")
    size = max((abs(v) for row in change for v in row if v == v), default=0.0) or 0.01
    _heat(
        figure,
        right,
        anchors,
        change,
        _steps("RdBu", 11, 0.05, 0.95),
        (-size, size),
        "change (blue: more)",
    )
    return to_svg(
        figure, "connections", f"{what} in which each layer takes each earlier one, first and last"
    )


def _steps(name: str, n: int, low: float, high: float) -> Colormap:
    source = mpl.colormaps[name]
    return ListedColormap([source(low + (high - low) * k / (n - 1)) for k in range(n)])


def _heat(
    figure: Figure,
    axes: Axes,
    anchors: Sequence[str],
    matrix: list[list[float]],
    colours: Colormap,
    limits: tuple[float, float],
    title: str,
) -> None:
    n = len(anchors)
    mesh = axes.pcolormesh(
        [list(row) for row in matrix],
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        edgecolors="#ffffff",
        linewidth=0.5,
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, color=INK)
    step = max(1, -(-n // 15))
    names = [shorten(a.removeprefix("layer"), 12) for a in anchors][::step]
    for axis, turn in ((axes.xaxis, 0 if all(len(x) < 4 for x in names) else 90), (axes.yaxis, 0)):
        axis.set_ticks([k + 0.5 for k in range(0, n, step)])
        for tick in axis.set_ticklabels(names, rotation=turn):
            tick.set_parse_math(False)
    axes.set_xlabel("layer that gives", fontsize=9.5, color=MUTED)
    axes.set_ylabel("layer that takes", fontsize=9.5, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.7, aspect=22)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
