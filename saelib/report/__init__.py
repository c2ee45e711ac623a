"""Stage `report`: turns result files into tables, figures and a page that opens without a network."""

from saelib.report.build import make_tables, run
from saelib.report.results import Gap, Place, Results, read_results
from saelib.report.tables import landscape_table, layers_table, saes_table, spearman_rows

__all__ = [
    "Gap",
    "Place",
    "Results",
    "landscape_table",
    "layers_table",
    "make_tables",
    "read_results",
    "run",
    "saes_table",
    "spearman_rows",
]
