"""Figures are drawn, are the same every time, and show the tables' numbers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.text import Annotation
from scipy.stats import norm

from saelib import report
from saelib.config import Config
from saelib.report.figures.death_by_layer import death_by_layer
from saelib.report.figures.death_vs_gamma import death_vs_gamma
from saelib.report.figures.landscapes import landscapes
from saelib.report.figures.style import save, styled
from saelib.report.figures.trained_death import trained_death
from saelib.report.figures.training import training_curves

NAMES = ("death_vs_gamma", "death_by_layer", "trained_death", "training", "landscapes")


@pytest.fixture(autouse=True)
def house_style() -> Iterator[None]:
    with styled():
        yield


def layers_of(config: Config) -> pl.DataFrame:
    return report.layers_table(config, report.read_results(config))


def saes_of(config: Config) -> pl.DataFrame:
    return report.saes_table(config, report.read_results(config))


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_comes_as_pdf_png_and_svg(complete: Config, name: str):
    from PIL import Image

    file = complete.results / "figures" / name
    assert file.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in file.with_suffix(".svg").read_text()
    with Image.open(file.with_suffix(".png")) as picture:
        assert picture.width == 1440
        assert np.asarray(picture.convert("L")).std() > 10


def test_the_same_results_give_the_same_bytes(suite: Config, tmp_path: Path):
    written = []
    for name in ("once", "again"):
        figure = death_by_layer(layers_of(suite))
        assert figure is not None
        paths = save(figure, tmp_path / name, "figure")
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_every_layer_is_a_point_and_the_lines_are_the_closed_forms(suite: Config):
    layers = layers_of(suite)
    figure = death_vs_gamma(suite, layers, report.spearman_rows(layers))
    assert figure is not None
    c, t_k = -norm.ppf(1 / 8192), norm.ppf(1 - 64 / 2048)
    relu, total = figure.axes
    for axes, column in ((relu, "dead_relu"), (total, "dead_total")):
        points = np.concatenate([np.asarray(cloud.get_offsets()) for cloud in axes.collections])
        expected = layers.select("gamma_unit", column).to_numpy()
        np.testing.assert_allclose(np.sort(points, axis=0), np.sort(expected, axis=0))
    gamma, drawn = np.asarray(relu.lines[0].get_data())
    np.testing.assert_allclose(drawn, norm.cdf(-c / gamma), atol=1e-12)
    gamma, drawn = np.asarray(total.lines[0].get_data())
    np.testing.assert_allclose(drawn, norm.cdf(t_k * np.sqrt(1 + gamma**-2) - c / gamma), atol=1e-9)
    gamma, paper = np.asarray(total.lines[1].get_data())
    np.testing.assert_allclose(paper, norm.cdf(t_k - c / gamma), atol=1e-12)


def test_every_model_has_its_panel_with_three_lines(suite: Config):
    layers = layers_of(suite)
    figure = death_by_layer(layers)
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes if axes.get_visible()] == ["minilm-l6", "hyenadna-tiny"]
    raw = {line.get_label(): line for line in figure.axes[0].lines}["raw"]
    np.testing.assert_array_equal(raw.get_ydata(), layers.filter(model="minilm-l6")["dead_total"])


def test_bars_stack_the_two_kinds_of_death(suite: Config):
    saes = saes_of(suite)
    figure = trained_death(suite, saes)
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes] == list(suite.train.variants)
    baseline = saes.filter(variant="baseline")
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].containers[1]]  # type: ignore[union-attr]
    np.testing.assert_allclose(ends, baseline["dead_total"])


def test_a_missing_training_leaves_its_bar_out(suite: Config):
    (suite.train_path("minilm-l6", 6, "auxk") / "sweep.json").unlink()
    figure = trained_death(suite, saes_of(suite))
    assert figure is not None
    assert [len(axes.patches) for axes in figure.axes] == [4, 2, 4, 4]
    assert [axes.texts[-1].get_text() for axes in figure.axes] == ["a", "b", "c", "d"]


def test_landscapes_show_the_representative_layer_and_name_the_largest_dimension(suite: Config):
    from safetensors.numpy import load_file

    figure = landscapes(suite, layers_of(suite))
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes] == ["minilm-l6, layer 6", "hyenadna-tiny, layer 2"]
    mean = load_file(suite.stats_path("hyenadna-tiny", 2).with_suffix(".safetensors"))["ln_mean"]
    texts = {text.get_text(): text for text in figure.axes[1].texts}
    largest = int(np.abs(mean).argmax())
    label = texts[f"dimension {largest}"]
    assert isinstance(label, Annotation)
    assert label.xy == (largest, pytest.approx(mean[largest]))  # the end of its line
    assert abs(label.xyann[1]) > np.abs(mean).max()


def test_an_axis_of_rates_reaches_as_far_as_the_rates(suite: Config):
    layers = layers_of(suite)
    figure = death_by_layer(layers)
    assert figure is not None
    largest = max(layers[name].max() for name in ("dead_total", "dead_total_center_median", "dead_total_pca"))  # type: ignore[type-var]
    assert figure.axes[0].get_ylim()[1] == pytest.approx(1.06 * largest)  # type: ignore[operator]


def test_curves_of_training_show_the_best_rate_by_cause_and_the_others_in_gray(suite: Config):
    training = report.make_tables(suite, report.read_results(suite))["training"]
    figure = training_curves(suite, training)
    assert figure is not None
    assert len(figure.axes) == 2 * len(suite.train.variants)
    for axes in figure.axes:
        (other,) = axes.lines
        np.testing.assert_allclose(np.asarray(other.get_ydata()), 0.1 + 1e-4 * np.array([0, 100, 200, 300]))
        relu, topk_only = [np.max(np.asarray(area.get_paths()[0].vertices)[:, 1]) for area in axes.collections]
        assert (relu, topk_only) == (pytest.approx(0.3), pytest.approx(0.4))  # one stands on the other
    assert training_curves(suite, training.clear()) is None


def test_damaged_statistics_are_not_drawn(suite: Config, caplog: pytest.LogCaptureFixture):
    damaged = suite.stats_path("hyenadna-tiny", 2).with_suffix(".safetensors")
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 64
    damaged.write_bytes(content)
    figure = landscapes(suite, layers_of(suite))
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes if axes.get_visible()] == ["minilm-l6, layer 6"]
    assert f"{damaged}: its checksum is not the one in layer_2.json" in caplog.text


def test_dollar_signs_in_a_domain_are_text(suite: Config):
    models = {name: model.model_copy(update={"domain": r"$x_{$ \frac"}) for name, model in suite.models.items()}
    config = suite.model_copy(update={"models": models})
    layers = layers_of(config)
    for figure in (death_by_layer(layers), death_vs_gamma(config, layers, report.spearman_rows(layers))):
        assert figure is not None
        figure.draw_without_rendering()


def test_single_layers_and_gamma_of_zero_can_be_drawn(suite: Config):
    layers = layers_of(suite).filter(model="hyenadna-tiny", layer=2)
    spearman = report.spearman_rows(layers)
    for figure in (death_by_layer(layers), death_vs_gamma(suite, layers, spearman)):
        assert figure is not None
        figure.draw_without_rendering()
    still = layers.with_columns(gamma_unit=pl.lit(0.0))
    assert death_vs_gamma(suite, still, spearman) is None


def test_without_results_figures_disappear_and_the_page_says_so(suite: Config):
    from saelib.report.build import _write_figures
    from saelib.report.remedies import remedies_table

    stale = suite.results / "figures" / "trained_death.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    for path in suite.results.glob("stats/*/*.safetensors"):
        path.write_bytes(b"broken")
    tables = report.make_tables(suite, report.read_results(suite))
    tables = {name: table.clear() for name, table in tables.items()}
    assert _write_figures(suite, tables, [], remedies_table(suite), stale.parent) == []
    assert not stale.exists()
