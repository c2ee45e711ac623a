"""The table that compares remedies, its figure and its section of the page, from made-up cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from saelib import report
from saelib.config import Config
from saelib.config.load import check_config
from saelib.lab.remedies import MEASURED, SCORES
from saelib.lab.result import cell_result, save_cell
from saelib.report.figures.remedies import remedies_figure
from saelib.report.remedies import ratio_columns, remedies_table

COLUMNS = ("born_dead_relu", "born_dead", *MEASURED, "fvu", "token_fvu", "choosing_token_fvu", *SCORES)
NONE: dict[str, tuple[float | None, ...]] = {
    "dead_total": (0.9, 0.8, 0.85),
    "fvu": (0.8, 0.7, 0.75),
    "token_fvu": (0.8, 0.7, 0.75),
    "f1": (0.1, 0.2, 0.15),
}
CENTERED: dict[str, tuple[float | None, ...]] = {
    "dead_total": (0.0, 0.01, 0.0),
    "fvu": (0.2, 0.21, 0.19),
    "token_fvu": (0.2, 0.21, 0.19),
    "f1": (0.5, 0.5, 0.6),
}


def suite(results: Path, **changes: Any) -> Config:
    experiment = {
        "kind": "remedies",
        "shows": "Which remedy?",
        "data": {"edition": "small", "gamma": 5},
        "variants": {"none": {}, "center_median": {"preprocessing": "center_median"}, "auxk": {"dead_latents": "auxk"}},
        "learning_rate": [1e-3, 1e-2],
        "seeds": 3,
    }
    return check_config({"results": str(results), "experiments": {"e": experiment | changes}}, "test")


def write(config: Config, values: dict[str, dict[str, tuple[float | None, ...]]]) -> None:
    """Writes every cell: of each variant these values, and at the higher learning rate twice the error for choosing."""
    for cell in config.experiments["e"].cells():
        own = values[cell.settings["variant"]]
        choosing = tuple(100 * cell.settings["learning_rate"] for _ in range(3))
        measured = {name: own.get(name, (0.5,) * 3) for name in COLUMNS} | {"choosing_token_fvu": choosing}
        save_cell(cell_result([({}, measured)]), config.lab_path("e", cell), "key")


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    config = suite(tmp_path)
    write(config, {"none": NONE, "center_median": CENTERED, "auxk": NONE})
    table = remedies_table(config)
    assert table["variant"].to_list() == ["none", "center_median", "auxk"]
    assert set(table["learning_rate"]) == {1e-3}  # it has the smaller error on the tokens for choosing
    row = table.filter(variant="center_median").row(0, named=True)
    changes = np.array(CENTERED["dead_total"], float) - np.array(NONE["dead_total"], float)
    half = student.ppf(0.975, 2) * changes.std(ddof=1) / np.sqrt(3)
    found = [row[f"dead_total_minus_none{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([changes.mean(), changes.mean() - half, changes.mean() + half])
    ratios = np.log(np.array(CENTERED["fvu"], float) / np.array(NONE["fvu"], float))
    assert row["fvu_over_none"] == pytest.approx(np.exp(ratios.mean()))
    assert row["fvu_over_none_low"] < row["fvu_over_none"] < row["fvu_over_none_high"]
    assert (row["data"], row["architecture"], row["verdict"]) == ("small, γ = 5", "topk", None)
    assert ratio_columns(table.columns)[-1] == "token_fvu_over_center_median"  # what the figure shows
    same = table.filter(variant="auxk").row(0, named=True)
    assert [same[f"dead_total_minus_none{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "no difference"),
        ({"dead_total": (0.2, 0.21, 0.2)}, "worse"),
        ({"dead_total": (0.005, 0.015, 0.005)}, "no difference"),  # half a point
        ({"fvu": (0.1, 0.105, 0.095)}, "better"),
        ({"fvu": (0.1, 0.3, 0.2)}, "no difference"),  # the interval holds 1
        ({"fvu": (0.1, 0.105, 0.095), "f1": (0.3, 0.3, 0.4)}, "mixed"),
        ({"token_fvu": (0.4, 0.42, 0.38)}, "worse"),
        ({"f1": (0.8, 0.8, 0.9)}, "better"),
        ({"dead_total": (None, None, None)}, None),
    ],
)
def test_verdicts(tmp_path: Path, changes: dict[str, Any], verdict: str | None) -> None:
    config = suite(tmp_path)
    write(config, {"none": NONE, "center_median": CENTERED, "auxk": CENTERED | changes})
    assert remedies_table(config).filter(variant="auxk")["verdict"].to_list() == [verdict]


def test_a_layer_is_named_by_its_store(tmp_path: Path) -> None:
    config = suite(tmp_path, data={"store": "results/extract/gpt2/layer_6.zarr"})
    write(config, {"none": NONE, "center_median": CENTERED, "auxk": NONE})
    assert set(remedies_table(config)["data"]) == {"gpt2/layer_6"}


def test_cells_that_are_missing_leave_gaps(tmp_path: Path) -> None:
    config = suite(tmp_path)
    assert remedies_table(config).is_empty()
    assert remedies_figure(remedies_table(config)) is None
    write(config, {"none": NONE, "center_median": CENTERED, "auxk": NONE})
    for cell in config.experiments["e"].cells():
        if cell.settings["variant"] == "center_median" or cell.settings["learning_rate"] == 1e-3:
            config.lab_path("e", cell).unlink()
    table = remedies_table(config)
    assert table["variant"].to_list() == ["none", "auxk"]
    assert set(table["learning_rate"]) == {1e-2}
    assert table["verdict"].to_list() == [None, None]


def test_the_report_has_table_figure_and_section(tmp_path: Path) -> None:
    config = suite(tmp_path, architectures={"topk": "topk", "batch_topk": "batch_topk"})
    write(config, {"none": NONE, "center_median": CENTERED, "auxk": CENTERED | {"fvu": (0.1, 0.105, 0.095)}})
    report.run(config, "key")
    for kind in ("csv", "parquet"):
        assert (tmp_path / "tables" / f"remedies.{kind}").exists()
    assert (tmp_path / "figures" / "remedies.png").exists()
    page = (tmp_path / "report.html").read_text()
    section = page[page.index('<section id="remedies">') : page.index('<section id="lab">')]
    assert section.count('<td data-value="better">better</td>') == 2
    assert "FVU / center_median" in section


def test_a_suite_without_remedies_has_no_section(tmp_path: Path) -> None:
    config = suite(tmp_path)
    report.run(config, "key")
    assert not (tmp_path / "tables" / "remedies.csv").exists()
    assert 'id="remedies"' not in (tmp_path / "report.html").read_text()
