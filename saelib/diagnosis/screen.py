"""A diagnosis as one screen of text."""

import io
from collections.abc import Sequence
from textwrap import indent
from typing import TYPE_CHECKING, Any

from saelib.diagnosis.names import SHOWN_AS
from saelib.diagnosis.remedies import LIBRARIES, lines_for
from saelib.preprocessing.recommend import percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from saelib.diagnosis.result import Diagnosis

WIDTH = 100
BAR, WIDE = 20, 100
FEW = 0.01
MANY = 0.05


def as_text(found: "Diagnosis", width: int = WIDTH) -> str:
    """Gives the screen without colors, for files and for `print`."""
    from rich.console import Console

    out = io.StringIO()
    show(found, Console(file=out, width=width, color_system=None, highlight=False))
    return out.getvalue()


def show(found: "Diagnosis", console: "Console", library: str | None = None) -> None:
    """Prints the screen.

    Args:
        found: What to show.
        console: Where; colors and width are its own.
        library: Whose lines to print; those of plain torch if None.
    """
    from rich.padding import Padding
    from rich.text import Text

    style = {"none": "green", "mean_center": "yellow", "pca_whiten": "red"}[found.recommendation]
    of = f" of {found.available:,}" if found.available > found.tokens else ""
    console.print(Text(found.verdict, style=f"bold {style}"))
    console.print(
        f"{found.name}: {found.tokens:,}{of} tokens x {found.d_in:,}; {found.architecture} SAE with d_sae "
        f"{found.d_sae:,}, k {found.k}",
        markup=False,
    )
    console.print()
    console.print(_statistics(found))
    console.print()
    console.print(_carriers(found))
    console.print()
    console.print(_death(found, console.width))
    console.print(_over_tokens(found), markup=False)
    console.print(_other_architectures(found), markup=False)
    console.print()
    console.print(_landscape(found))
    console.print()
    console.print(Text(f"{found.recommendation} ({found.confidence} confidence)", style="bold"))
    for reason in found.reasons:
        console.print(Padding(Text(f"- {reason}"), (0, 0, 0, 1)))
    for warning in found.warnings:
        console.print(Padding(Text(f"! {warning}", style="yellow"), (0, 0, 0, 1)))
    if found.sae is not None:
        console.print()
        console.print(Text(f"The SAE: {found.sae.verdict}", style="bold"))
        for finding in found.sae.findings:
            console.print(Padding(Text(f"- {finding}"), (0, 0, 0, 1)))
    if found.recommendation != "none":
        console.print()
        chosen = library or "torch"
        others = ", ".join(name for name in LIBRARIES if name != chosen)
        console.print(f"With {LIBRARIES[chosen]} (--library: {others}):", style="bold", markup=False)
        console.print(Text(indent(lines_for(found, chosen), "    ")), soft_wrap=True)


def _table(*headers: str, right: bool = True) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if right and number else "left", style="bold" if not number else None)
    return table


def _statistics(found: "Diagnosis") -> Any:
    """The numbers that are known of the layer, with intervals."""
    table = _table("", "", "95% interval", "")
    meaning = {
        "gamma": "||mean|| / ||std||, LayerNormed (the paper's)",
        "gamma_raw": "of the tokens as they are",
        "gamma_unit": "of the tokens at unit length: what decides",
        "effective_rank": f"of {found.d_in:,} dimensions",
        "excess_kurtosis": "0 for Gaussian activations",
    }
    for name, what in meaning.items():
        value, interval = getattr(found, name), getattr(found.intervals, name)
        shown = "not defined" if value is None else f"{value:.3g}"
        table.add_row(name, shown, f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else "", what)
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = True
    return table


def _carriers(found: "Diagnosis") -> Any:
    from rich.console import Group
    from rich.text import Text

    massive = found.massive_tokens
    tokens = f"massive tokens: {percent(massive.share)}; the longest is {massive.norm_ratio:,.1f} times the median one"
    if massive.position is not None and massive.at_position is not None:
        tokens += f"; {massive.at_position:.0%} of them at position {massive.position} of their example"
    if not found.outlier_dimensions:
        return Group(Text("no dimension holds 5% of the mean's square"), Text(tokens))
    table = _table("dimension", "mean", "std", "share of the mean's square")
    for one in found.outlier_dimensions:
        table.add_row(str(one.index), f"{one.mean:.4g}", f"{one.std:.3g}", f"{one.share:.1%}")
    return Group(table, Text(tokens))


def _death(found: "Diagnosis", width: int) -> Any:
    """Makes the table of death under each preprocessing; a narrow screen has no bars."""
    wide = width >= WIDE
    headers = ["dead latents", "predicted", "counted", "s.e.", "never > 0", "never chosen"]
    table = _table(*headers, *([""] if wide else []))
    for name, predicted in found.predicted.items():
        of, total = found.dead(name), found.dead(name).dead_total
        style = "green" if total <= FEW else "yellow" if total <= MANY else "red"
        relu = round(of.dead_relu * BAR)
        bar = "█" * relu + "▒" * (round(total * BAR) - relu)
        counted = f"[{style}]{percent(total)}[/]" if name in found.measured else ""
        cells = [SHOWN_AS[name] + (" <" if found.recommended == name else ""), percent(predicted.dead_total), counted,
                 percent(of.standard_error), percent(of.dead_relu), percent(of.dead_topk_only)]  # fmt: skip
        table.add_row(*cells, *([f"[{style}]{bar}[/]"] if wide else []))
    table.columns[0].no_wrap = True
    if wide:
        table.columns[-1].justify = "left"
    return table


def _over_tokens(found: "Diagnosis") -> str:
    """Tells how death falls with the number of tokens."""
    name = "raw"
    if name not in found.curves:
        return "not counted: the bar of a BatchTopK SAE depends on the batch"
    steps = [n for n in (1_000, 10_000, 100_000) if n < found.tokens]
    indices = [min(range(len(found.curve_tokens)), key=lambda i: abs(found.curve_tokens[i] - n)) for n in steps]
    indices.append(len(found.curve_tokens) - 1)
    shown = ", ".join(f"{percent(found.curves[name][i])} after {found.curve_tokens[i]:,}" for i in indices)
    return f"over tokens, {SHOWN_AS[name]}: {shown}"


def _other_architectures(found: "Diagnosis") -> str:
    names = ("raw", found.recommended) if found.recommended != "raw" else ("raw",)
    same: dict[str, list[str]] = {}
    for architecture, of in found.other_architectures.items():
        same.setdefault(", then ".join(percent(of[name]) for name in names), []).append(architecture)
    shown = "; ".join(f"{', '.join(architectures)} {dead}" for dead, architectures in same.items())
    return f"predicted for others, {' then '.join(SHOWN_AS[name] for name in names)}: {shown}"


def _landscape(found: "Diagnosis") -> Any:
    """Death for other sizes of the SAE: as it is, centered and, if that is advised, whitened."""
    grid = found.landscape
    names = ["raw", "center_median", *(["pca"] if found.recommended == "pca" else [])]
    table = _table(f"% dead, TopK: {' → '.join(SHOWN_AS[name] for name in names)}", *(f"k {k}" for k in grid.k))
    for row, d_sae in enumerate(grid.d_sae):
        cells = []
        for column, k in enumerate(grid.k):
            dead = [grid.dead_total[name][row][column] for name in names]
            shown = " → ".join(f"{100 * one:.0f}" for one in dead if one is not None)
            mark = (d_sae, k) == (found.d_sae, found.k)
            cells.append(f"[bold reverse]{shown}[/]" if mark else shown)
        table.add_row(f"d_sae {d_sae:,}", *cells)
    return table


def show_layers(found: "Sequence[Diagnosis]", console: "Console") -> None:
    """Prints one line for each of several layers; `--html` has a card for each."""
    table = _table("layer", "gamma", "gamma_unit", "rank", "% dead", "centered", "whitened", "recommendation")
    for one in found:
        dead = [percent(one.dead(name).dead_total) if name in one.predicted else "" for name in
                ("raw", "center_median", "pca")]  # fmt: skip
        numbers = ["" if value is None else f"{value:.3g}" for value in (one.gamma, one.gamma_unit, one.effective_rank)]
        table.add_row(one.name, *numbers, *dead, f"{one.recommendation} ({one.confidence})")
    for column in table.columns:
        column.no_wrap = True
    console.print(table)
    console.print("rank: effective, after LayerNorm; centered: on the geometric median; --html FILE has a card each")
