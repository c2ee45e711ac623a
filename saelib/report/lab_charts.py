"""Interactive charts of the lab's experiments, with the layout of their figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from saelib.report.charts import INK, Chart
from saelib.report.lab import ExperimentTable, Layout, is_share, layouts, words
from saelib.report.palette import line_colors

DASHES = {"theory": [4, 2], "the paper's form": [1, 2], "theory with kurtosis and rank": [6, 2, 1, 2], "limit": [1, 4]}
MOST_ROWS = 4_000
"""Rows of a figure that the page keeps, at most; the table has all."""
FEW = 20
"""Points of a line up to which its interval is a bar at each point."""


@dataclass(frozen=True)
class LabFigureSection:
    """A figure of an experiment in the page."""

    caption: str
    charts: tuple[tuple[str, str], ...]
    """(id, caption) of each chart."""


@dataclass(frozen=True)
class LabSection:
    """An experiment in the page."""

    found: ExperimentTable
    figures: tuple[LabFigureSection, ...]


def lab_sections(
    tables: Sequence[ExperimentTable],
) -> tuple[list[LabSection], dict[str, Chart], dict[str, list[dict[str, Any]]]]:
    """Makes the sections of all experiments, their charts by id, and the rows that the charts show by name."""
    sections, charts, rows = [], {}, {}
    for found in tables:
        figures = []
        for name, shown in layouts(found).items():
            rows[name] = _thinned(shown)
            captions = []
            for i, (y, panel) in enumerate((y, panel) for y in shown.y for panel in shown.panels):
                captions.append((f"{name}-{i}", f"{words(y)}, {panel}" if len(shown.panels) > 1 else words(y)))
                charts[f"{name}-{i}"] = Chart(name, _chart(shown, y, panel, name))
            figures.append(LabFigureSection(shown.caption, tuple(captions)))
        sections.append(LabSection(found, tuple(figures)))
    return sections, charts, rows


def _thinned(shown: Layout) -> list[dict[str, Any]]:
    """Keeps the columns that the charts show and, of long curves, every n-th row and the last."""
    theory = [column for columns in shown.theory.values() for column in columns]
    names = [
        shown.x,
        "panel",
        "line",
        "color",
        *(f"{y}{end}" for y in shown.y for end in ("", "_low", "_high")),
        *theory,
    ]
    rows = shown.rows.select(list(dict.fromkeys(names))).sort(shown.x, maintain_order=True)
    number, last = pl.int_range(pl.len()).over("panel", "line"), pl.len().over("panel", "line") - 1
    return rows.filter((last - number) % (rows.height // MOST_ROWS + 1) == 0).to_dicts()


def _chart(shown: Layout, y: str, panel: str, rows: str) -> dict[str, Any]:
    colors = line_colors(shown.colors, shown.ordered)
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    numeric = shown.rows[shown.x].dtype.is_numeric()
    x_scale = (
        alt.Scale(type="log", nice=False, padding=12) if shown.log else alt.Scale(zero=False, nice=False, padding=12)
    )
    of_x = f"{shown.x}:{'Q' if numeric else 'N'}"
    x = alt.X(
        of_x, title=words(shown.x), scale=x_scale if numeric else alt.Undefined, sort=alt.Undefined if numeric else None
    )
    y_axis = alt.Axis(format=".0%", tickCount=5) if is_share(y) else alt.Axis(tickCount=5)
    y_scale = alt.Scale(type="log") if y in shown.log_y else alt.Scale(zero=is_share(y))
    several = len(shown.lines) > 1
    color = alt.Color("color:N", scale=scale, title=None, sort=None, legend=alt.Legend() if several else None)
    format_y = ".2%" if is_share(y) else ".4g"
    tooltip = [
        alt.Tooltip("line:N", title="series"),
        alt.Tooltip(of_x, title=words(shown.x)),
        alt.Tooltip(f"{y}:Q", title=words(y), format=format_y),
        alt.Tooltip(f"{y}_low:Q", title="95% from", format=format_y),
        alt.Tooltip(f"{y}_high:Q", title="to", format=format_y),
    ]
    base = (
        alt.Chart(alt.NamedData(rows))
        .transform_filter(alt.FieldEqualPredicate(field="panel", equal=panel))
        .transform_filter(f"isValid(datum['{y}'])")
    )
    line = alt.Detail("line:N")
    at = base.encode(x, alt.Y(f"{y}:Q", title=None, axis=y_axis, scale=y_scale), color, line)
    if shown.points:
        layers = [at.mark_point(filled=True, size=18, opacity=0.6).encode(tooltip=tooltip[:3])]
    else:
        ends = base.encode(x, alt.Y(f"{y}_low:Q", title=None), alt.Y2(f"{y}_high"), color, line)
        few = len(shown.rows) <= FEW * len(shown.lines) * len(shown.panels)
        point = alt.OverlayMarkDef(size=22 if few else 6)
        marks = at.mark_line(point=point, strokeWidth=1.5) if numeric else at.mark_point(filled=True, size=40)
        layers = [ends.mark_rule() if few else ends.mark_area(opacity=0.15), marks.encode(tooltip=tooltip)]
        if not shown.rows[f"{y}_low"].count():  # a single seed
            layers = [at.mark_line(strokeWidth=0.8).encode(tooltip=tooltip[:3])]
    layers += [
        base.mark_line(strokeDash=DASHES[name], strokeWidth=1.2, color=alt.Undefined if several else INK).encode(
            x,
            alt.Y(f"{column}:Q", title=None),
            line,
            *([color] if several else []),
            tooltip=[*tooltip[:2], alt.Tooltip(f"{column}:Q", title=name, format=format_y)],
        )
        for column, name in shown.theory[y].items()
    ]
    return alt.layer(*layers).properties(height=230).to_dict()
