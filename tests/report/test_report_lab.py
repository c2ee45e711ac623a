"""The lab's tables, figures and section of the page, from made-up cells."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from saelib import report
from saelib.config import Config
from saelib.config.load import check_config
from saelib.lab.result import cell_result, save_cell
from saelib.pipeline.failures import Failure
from saelib.report.figures.lab import lab_figures, short
from saelib.report.lab import layouts, read_lab
from saelib.report.lab_charts import lab_sections
from tests.report.conftest import EVIL, make_config, write_results

STEPS = (0, 10, 20)


def lab(results: Path, **changes: Any) -> Config:
    experiment = {
        "kind": "training",
        "shows": "What training does.",
        "data": {"gamma": [2, 20]},
        "variants": {"baseline": {}, "auxk": {"dead_latents": "auxk"}},
        "seeds": 2,
    }
    return check_config({"results": str(results), "experiments": {"e": experiment | changes}}, "lab")


def write_cells(config: Config) -> None:
    """Writes every cell of every experiment; death falls over the steps, and grows with gamma."""
    for name, experiment in config.experiments.items():
        for cell in experiment.cells():
            gamma = cell.data.gamma or 0.0
            records = [
                ({"step": step}, {"dead_relu": [gamma / 100, gamma / 50], "dead_topk_only": [0.5 - step / 50, None]})
                for step in STEPS
            ]
            save_cell(cell_result(records), config.lab_path(name, cell), "key")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    found = lab(tmp_path)
    write_cells(found)
    return found


def test_a_row_for_each_record_of_each_cell(config: Config) -> None:
    (found,) = read_lab(config, {})
    assert found.rows.height == 2 * 2 * len(STEPS)
    assert found.missing == ()
    row = found.rows.filter(gamma=20, variant="auxk", step=10).row(0, named=True)
    assert (row["dead_relu"], row["dead_topk_only"], row["seeds"]) == (pytest.approx(0.3), pytest.approx(0.3), 2)
    assert row["dead_topk_only_low"] is None  # one seed has no value


def test_cells_that_are_missing_damaged_or_failed_are_named(config: Config) -> None:
    lost, damaged, failed, there = config.experiments["e"].cells()
    config.lab_path("e", lost).unlink()
    config.lab_path("e", damaged).write_text("{}")
    (found,) = read_lab(config, {("lab", "e", -1, failed.name): Failure("lab", "out of memory")})
    assert [(gap.cell, gap.reason.partition(":")[0]) for gap in found.missing] == [
        (lost.name, "no result"),
        (damaged.name, config.lab_path("e", damaged).name),
        (failed.name, "out of memory"),
    ]
    assert set(found.rows["variant"]) == {there.settings["variant"]}


def test_figures_by_default_have_a_line_for_each_cell(config: Config) -> None:
    (found,) = read_lab(config, {})
    (shown,) = layouts(found).values()
    assert (shown.x, shown.y, shown.panels) == ("step", ("dead_relu", "dead_topk_only"), ("",))
    assert shown.lines == ("γ = 2, baseline", "γ = 2, auxk", "γ = 20, baseline", "γ = 20, auxk")
    assert not shown.log


def test_figures_as_the_config_lays_them_out(tmp_path: Path) -> None:
    figures = {
        "end": {"x": "gamma", "y": ["dead_relu"], "lines": ["variant"], "where": {"variant": ["auxk"]}},
        "panels": {"panels": "variant", "lines": ["gamma"], "color": "variant"},
        "nothing": {"y": ["no_such_column"]},
    }
    config = lab(tmp_path, figures=figures)
    write_cells(config)
    (found,) = read_lab(config, {})
    assert found.figure_names == ["lab_e_end", "lab_e_panels", "lab_e_nothing"]
    shown = layouts(found)
    assert list(shown) == ["lab_e_end", "lab_e_panels"]
    end, panels = shown.values()
    assert end.rows.select("gamma", "step", "line").rows() == [(2, 20, "auxk"), (20, 20, "auxk")]
    assert end.log  # 2 to 20
    assert (panels.panels, panels.lines, panels.colors) == (
        ("baseline", "auxk"),
        ("γ = 2", "γ = 20"),
        ("baseline", "auxk"),
    )


def test_rows_are_chosen_by_whole_numbers_among_fractions(tmp_path: Path) -> None:
    config = lab(tmp_path, data={"gamma": [0.5, 2, 20]}, figures={"two": {"where": {"gamma": [2, 20], "step": [20]}}})
    write_cells(config)
    (found,) = read_lab(config, {})
    (shown,) = layouts(found).values()
    assert sorted(shown.rows["gamma"].unique()) == [2, 20]
    assert shown.rows["step"].unique().to_list() == [20]


def test_charts_have_their_rows(config: Config) -> None:
    (section,), charts, rows = lab_sections(read_lab(config, {}))
    assert [name for name, _ in section.figures[0].charts] == list(charts) == ["lab_e-0", "lab_e-1"]
    assert all(chart.rows == "lab_e" and chart.spec["layer"] for chart in charts.values())
    assert len(rows["lab_e"]) == 2 * 2 * len(STEPS)
    fields = {"step", "line", "color", "panel", "dead_relu", "dead_relu_low", "dead_relu_high"}
    assert fields <= set(rows["lab_e"][0])


def test_a_report_of_experiments_alone(config: Config) -> None:
    report.run(config, "key")
    written = json.loads((config.results / "report.json").read_text())
    assert written["tables"] == {"lab_e": 12}
    assert written["figures"] == ["lab_e"]
    assert {path.name for path in (config.results / "tables").iterdir()} == {"lab_e.csv", "lab_e.parquet"}
    assert pl.read_csv(config.results / "tables" / "lab_e.csv").height == 12
    page = (config.results / "report.html").read_text()
    assert "<title>Dead latents: 1 experiment</title>" in page
    assert "What training does." in page


def test_experiments_next_to_models(tmp_path: Path) -> None:
    experiment = {"kind": "training", "shows": EVIL, "data": {"gamma": [2, 20]}, "seeds": 2}
    config = make_config(tmp_path, ("minilm-l6",), experiments={"e": experiment})
    write_results(config)
    write_cells(config)
    report.run(config, "key")
    page = (config.results / "report.html").read_text()
    assert "Will the latents be born dead?" in page
    assert 'class="chart" id="lab_e-0"' in page
    assert EVIL not in page
    assert (config.results / "tables" / "layers.csv").exists()


def test_columns_that_are_named_get_a_logarithmic_axis(tmp_path: Path) -> None:
    both = ["dead_relu", "dead_topk_only"]
    for log_y, expected in ((["dead_relu"], ("dead_relu",)), (True, tuple(both)), (False, ())):
        found = lab(tmp_path, figures={"main": {"y": both, "log_y": log_y}})
        write_cells(found)
        (table,) = read_lab(found, {})
        assert layouts(table)["lab_e"].log_y == expected
        (figure,) = lab_figures(table).values()
        assert figure is not None
        scales = {axes.get_title().partition(" ")[0]: axes.get_yscale() for axes in figure.axes}
        assert scales == {"never": _scale("dead_relu" in expected), "positive,": _scale("dead_topk_only" in expected)}


def _scale(log: bool) -> str:
    return "log" if log else "linear"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1e-5, "1e-5"), (2.5e-4, "2.5e-4"), (0.001, "0.001"), (20, "20"), (3e5, "300k")]
)
def test_numbers_along_an_axis_are_short(value: float, text: str) -> None:
    assert short(value) == text
