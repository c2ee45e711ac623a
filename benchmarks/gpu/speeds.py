"""The table of a card that projections read (`python -m benchmarks scale --gpu FILE`): training steps by size.

`python -m benchmarks gpu` writes it as speeds.json, next to its report.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gpu.report import Report, Step
from saelib.errors import UserError

CPU = "CPU"
"""Name of the device of a run without a GPU."""


@dataclass(frozen=True)
class Speeds:
    """Measured steps, and what they were measured with."""

    card: str
    command: str
    environment: Mapping[str, str]
    """Versions of packages, and the CPU."""
    steps: Sequence[Step]

    @staticmethod
    def of(report: Report, command: str) -> "Speeds":
        """The steps of a report, as far as they have been measured."""
        steps = [row.step for section in report.sections for row in section.rows if row.step is not None]
        return Speeds(report.device, command, report.environment, steps)

    @staticmethod
    def read(file: Path) -> "Speeds":
        """Reads what `to_dict` gives. Raises `UserError` if the file is something else, or of a run on a CPU."""
        try:
            found = json.loads(file.read_text())
            speeds = Speeds(**{**found, "steps": [Step(**step) for step in found["steps"]]})
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{file}: should be the speeds.json that `python -m benchmarks gpu` writes") from None
        if speeds.card == CPU:
            raise UserError(f"{file}: was measured on a CPU (`{speeds.command}`); run it on a machine with a GPU")
        return speeds

    def to_dict(self) -> dict[str, object]:
        """Converts to JSON."""
        return asdict(self)
