"""Formats the figures as lines during the run, as JSON for programs, and as Markdown for a document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Figure = float | int | str
State = Literal["waiting", "running", "done", "cut off", "failed"]


@dataclass(frozen=True)
class Step:
    """A training step of one SAE as users get it, without dead latents; `speeds.py` reads it."""

    d_in: int
    d_sae: int
    k: int
    batch_size: int
    precision: str
    """`float32`, `tf32` or `bfloat16`."""
    ms: float


@dataclass(frozen=True)
class Row:
    """One case of a section."""

    name: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Name and unit of a column, such as `host, ms` -> the figure."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Laws: name of a figure -> the bound that it must not exceed."""
    note: str = ""
    """Why there are no figures, or what they leave out."""
    step: Step | None = None
    """The training step that was measured, if projections are to read it."""

    @property
    def broken(self) -> list[str]:
        """Laws that do not hold; a figure that is not a number breaks its law."""
        return [
            f"{self.name}: {name} is {text(self.figures[name])}, allowed {text(bound)}"
            for name, bound in self.bounds.items()
            if not float(self.figures[name]) <= bound
        ]

    @property
    def line(self) -> str:
        """The row as one line, for a person who watches the run."""
        figures = "   ".join(f"{name} {text(value)}" for name, value in self.figures.items())
        return "   ".join(part for part in (f"{self.name:<46}", figures, self.note) if part).rstrip()


@dataclass
class Section:
    """One section of the run."""

    name: str
    title: str
    """One sentence that says what it measures."""
    state: State = "waiting"
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    reason: str = ""
    """Why it failed."""

    @property
    def broken(self) -> list[str]:
        """Laws of its rows that do not hold."""
        return [f"{self.name}: {law}" for row in self.rows for law in row.broken]


@dataclass
class Report:
    """The whole run, as far as it has come."""

    device: str
    environment: Mapping[str, str]
    sections: Sequence[Section]

    @property
    def broken(self) -> list[str]:
        """Laws that do not hold, in words."""
        return [law for section in self.sections for law in section.broken]

    @property
    def failed(self) -> list[str]:
        """Sections that ended in an error, with the error."""
        return [f"{section.name}: {section.reason}" for section in self.sections if section.state == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON. A figure that is not finite becomes a string, because JSON has no such numbers."""
        sections: list[dict[str, Any]] = [asdict(one) | {"broken": one.broken} for one in self.sections]
        for row in (row for section in sections for row in section["rows"]):
            row["figures"] = {name: _for_json(value) for name, value in row["figures"].items()}
        whole = all(section.state == "done" for section in self.sections)
        return {"device": self.device, "environment": dict(self.environment), "complete": whole, "sections": sections}

    def to_markdown(self) -> str:
        """A heading and a table for each section that has begun."""
        begun = [section for section in self.sections if section.state != "waiting"]
        environment = ", ".join(f"{name} {value}" for name, value in self.environment.items())
        head = f"## On a GPU: `python -m benchmarks gpu`\n\n{self.device}; {environment}.\n"
        return "\n".join([head, *(_markdown(section) for section in begun)])


def text(value: Figure) -> str:
    """Formats a figure with three significant digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 0.01 else f"{value:.1e}"


def _markdown(section: Section) -> str:
    columns = list(dict.fromkeys(name for row in section.rows for name in row.figures))
    if any(row.note for row in section.rows):
        columns.append("")
    lines = [f"### {section.name.replace('_', ' ').capitalize()}", "", section.title]
    if section.state != "done":
        lines += ["", f"Not complete ({section.state}{f': {section.reason}' if section.reason else ''})."]
    lines += ["", *(f"**Broken: {law}**" for law in section.broken), ""] if section.broken else [""]
    if not section.rows:
        return "\n".join(lines)
    lines += [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in section.rows:
        cells = [text(row.figures[name]) if name in row.figures else "" for name in columns]
        if columns and columns[-1] == "":
            cells[-1] = row.note
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _for_json(value: Figure) -> Figure:
    return value if isinstance(value, str) or float("-inf") < value < float("inf") else str(value)
