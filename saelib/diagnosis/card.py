"""A diagnosis as a card of HTML, for a notebook and for a page of its own."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from saelib.diagnosis.names import SHOWN_AS
from saelib.diagnosis.remedies import LIBRARIES, lines_for
from saelib.files.publish import published_file
from saelib.preprocessing.recommend import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from saelib.diagnosis.result import Diagnosis

STYLE = """
.saelib-card { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; color: CanvasText; background: Canvas; }
.saelib-card h2 { font-size: 1.15rem; margin: 0 0 .4rem; }
.saelib-card table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
.saelib-card th, .saelib-card td { padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid #8884; }
.saelib-card th:first-child, .saelib-card td:first-child, .saelib-card td.text { text-align: left; }
.saelib-card img { max-width: 100%; height: auto; background: white; }
.saelib-card pre { overflow-x: auto; padding: .6rem; border: 1px solid #8886; border-radius: .3rem; }
.saelib-card .scroll { overflow-x: auto; }
.saelib-card mark { font-weight: 700; }
"""


def card(found: "Diagnosis") -> str:
    """Gives the card as one HTML element with its own style. Everything that comes from outside is escaped."""
    parts = [
        f"<h2>{escape(found.verdict)}</h2>",
        f"<p>{escape(found.name)}: {found.tokens:,} of {found.available:,} tokens x {found.d_in:,}; "
        f"{escape(found.architecture)} SAE with d_sae {found.d_sae:,}, k {found.k}.</p>",
        f'<p><img alt="{escape(_alternative(found))}" src="data:image/png;base64,{_png(found.plot())}"></p>',
        _list([*found.reasons, *found.warnings]),
        _death(found), _statistics(found), _dimensions(found), _landscape(found),
    ]  # fmt: skip
    if found.sae is not None:
        parts.append(f"<h2>The SAE</h2><p>{escape(found.sae.verdict)}</p>{_list(found.sae.findings)}")
    parts.append(_remedy(found))
    return f'<section class="saelib-card"><style>{STYLE}</style>{"".join(parts)}</section>'


def write_page(found: "Sequence[Diagnosis]", path: str | Path) -> None:
    """Writes one or several cards as a page that needs no other file."""
    cards = "<hr>".join(card(one) for one in found)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>Diagnosis</title></head>'
        f'<body style="margin:1.5rem auto;max-width:72rem;padding:0 1rem">{cards}</body></html>'
    )
    with published_file(Path(path)) as draft:
        draft.write_text(page, encoding="utf-8")


def _png(figure: "Figure") -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=140)
    return base64.b64encode(out.getvalue()).decode()


def _alternative(found: "Diagnosis") -> str:
    dead = ", ".join(f"{SHOWN_AS[name]} {percent(found.dead(name).dead_total)}" for name in found.predicted)
    return f"Dead latents by preprocessing: {dead}"


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are escaped; a cell that starts with '*' is marked."""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: str) -> str:
    return f"<mark>{escape(cell[1:])}</mark>" if cell.startswith("*") else escape(cell)


def _death(found: "Diagnosis") -> str:
    rows = [
        [
            SHOWN_AS[name], percent(found.predicted[name].dead_total),
            percent(of.dead_total) if name in found.measured else "",
            percent(of.standard_error), percent(of.dead_relu), percent(of.dead_topk_only),
        ]
        for name, of in ((name, found.dead(name)) for name in found.predicted)
    ]  # fmt: skip
    headers = ("dead at initialization", "predicted", "counted", "standard error", "never positive", "never selected")
    return _table(headers, rows)


def _statistics(found: "Diagnosis") -> str:
    rows = []
    for name in ("gamma", "gamma_raw", "gamma_unit", "effective_rank", "excess_kurtosis"):
        value, interval = getattr(found, name), getattr(found.intervals, name)
        shown = "not defined" if value is None else f"{value:.3g}"
        rows.append([name, shown, f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else ""])
    return _table(("statistic", "value", "95% interval"), rows)


def _dimensions(found: "Diagnosis") -> str:
    massive = found.massive_tokens
    text = f"Massive tokens: {percent(massive.share)}; the longest is {massive.norm_ratio:,.1f} times the median one."
    rows = [
        [str(one.index), f"{one.mean:.4g}", f"{one.std:.3g}", f"{one.share:.1%}"] for one in found.outlier_dimensions
    ]
    table = _table(("dimension", "mean", "std", "share of the mean's square"), rows) if rows else ""
    return f"{table}<p>{escape(text)}</p>"


def _landscape(found: "Diagnosis") -> str:
    remedy = found.recommended if found.recommended != "raw" else "center_median"
    grid = found.landscape
    rows = []
    for row, d_sae in enumerate(grid.d_sae):
        cells = [f"{d_sae:,}"]
        for column, k in enumerate(grid.k):
            dead = [grid.dead_total[name][row][column] for name in ("raw", remedy)]
            mark = "*" if (d_sae, k) == (found.d_sae, found.k) else ""
            cells.append(mark + " → ".join(f"{100 * one:.0f}" for one in dead if one is not None))
        rows.append(cells)
    headers = (f"d_sae (TopK, % dead raw → {SHOWN_AS[remedy]})", *(f"k {k}" for k in grid.k))
    return _table(headers, rows)


def _remedy(found: "Diagnosis") -> str:
    if found.recommendation == "none":
        return ""
    blocks = "".join(
        f"<details{' open' if library == 'torch' else ''}><summary>{escape(title)}</summary>"
        f"<pre><code>{escape(lines_for(found, library))}</code></pre></details>"
        for library, title in LIBRARIES.items()
    )
    return f"<h2>What to do: {escape(found.recommendation)}</h2>{blocks}"
