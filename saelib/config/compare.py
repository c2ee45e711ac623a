"""Settings of the comparison with another table."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from saelib.config.base import Name, Section


class CompareConfig(Section):
    """Another table of layers, which the report shows next to the suite's own."""

    table: Annotated[Path, AfterValidator(Path.expanduser)]
    """The table: the paper's released init_stats.csv, or tables/layers.csv (or .parquet) of another suite."""
    names: dict[Name, str] = {}
    """Names in that table of models that are called otherwise here, such as `gpt2-small: gpt2`."""
