"""Grids: cells are all combinations, a wrong point is named, and a cell's place depends on its coordinates alone."""

import copy
from itertools import product
from typing import Any

import pytest

from saelib.config import Config
from saelib.config.load import check_config
from saelib.errors import UserError


def suite(**changes: Any) -> Config:
    experiment = {"kind": "init_death", "shows": "death", "data": {"gamma": [1, 2, 5]}, "sae": {"k": [2, 5]}}
    return check_config({"experiments": {"e": experiment | changes}}, "lab.yaml")


def training(**changes: Any) -> Config:
    return suite(kind="training", sae={}, **changes)


def test_cells_are_all_combinations_of_the_axes() -> None:
    cells = list(suite().experiments["e"].cells())
    assert [(cell.axes["gamma"], cell.axes["k"]) for cell in cells] == list(product((1, 2, 5), (2, 5)))
    assert all((cell.data.gamma, cell.sae.k) == (cell.axes["gamma"], cell.axes["k"]) for cell in cells)
    assert len({cell.digest for cell in cells}) == len({cell.name for cell in cells}) == 6
    assert cells[0].name == "gamma=1.0, k=2"


def test_a_grid_without_axes_has_one_cell() -> None:
    (cell,) = suite(data={"gamma": 3}, sae={}).experiments["e"].cells()
    assert (cell.name, cell.axes, cell.data.gamma) == ("all", {}, 3)


def test_variants_rates_and_batches_are_axes_of_a_training() -> None:
    config = training(learning_rate=[1e-3, 1e-2], batch_size=[8, 16], variants={"a": {}, "b": {"frozen": "b_dec"}})
    names = [cell.name for cell in config.experiments["e"].cells()]
    assert len(names) == 3 * 2 * 2 * 2
    assert names[0] == "gamma=1.0, learning_rate=0.001, batch_size=8, variant=a"


def test_a_cell_keeps_its_place_when_an_axis_grows() -> None:
    def places(gammas: list[int]) -> dict[float | None, str]:
        cells = suite(data={"gamma": gammas}, sae={}).experiments["e"].cells()
        return {cell.data.gamma: cell.digest for cell in cells}

    assert places([1, 2]).items() <= places([1, 2, 3]).items()
    assert places([1])[1] == places([1, 2])[1]


def test_a_variants_options_decide_its_own_cells_alone() -> None:
    def deciding(**variants: Any) -> dict[str, Any]:
        experiment = training(data={}, variants=variants).experiments["e"]
        return {cell.settings["variant"]: experiment.deciding(cell) for cell in experiment.cells()}

    before, after = deciding(a={}, b={}), deciding(a={}, b={"frozen": "b_dec"})
    assert before["a"] == after["a"]
    assert before["b"] != after["b"]


def test_captions_and_figures_decide_nothing() -> None:
    plain, drawn = (
        suite(**changes).experiments["e"] for changes in ({}, {"shows": "x", "figures": {"f": {}}, "cells_per_job": 1})
    )
    cells = list(zip(plain.cells(), drawn.cells(), strict=True))
    assert all(plain.deciding(a) == drawn.deciding(b) for a, b in cells)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"gamma": [1, -2]}}, "experiments.e.data.gamma.1: input should be greater than or equal to 0"),
        ({"data": {"gama": 1}}, "experiments.e.data.gama: unknown key; did you mean 'gamma'?"),
        ({"sae": {"d_sae": [50, 4], "k": [2, 5]}}, "experiments.e.sae: k = 5 is larger than d_sae = 4 at d_sae=4, k=5"),
        ({"data": {"gamma": [1, 2, 1]}}, "experiments.e: gamma: the value 1.0 appears twice"),
        ({"data": {"gamma": []}}, "experiments.e.data.gamma: should have at least 1 item"),
        ({"kind": "init"}, "experiments.e.kind: no such value 'init'; did you mean 'init_death'?"),
        ({"shows": ""}, "experiments.e.shows: string should have at least 1 character"),
        ({"kind": "training", "sae": {"rows": "uniform"}}, "set variants.NAME.init.rows"),
        ({"preprocessings": ["auto"]}, "experiments.e: preprocessings: auto chooses for trainings"),
        ({"kind": "training", "sae": {}, "variants": {"v": {"preprocessing": "auto"}}}, "name one instead of auto"),
        ({"kind": "training", "sae": {}, "variants": {"v": {"learning_rates": [1]}}}, "use the key learning_rate"),
        ({"data": {"active": [5, 101]}}, "active = 101 is larger than n_features = 100 at active=101"),
    ],
)
def test_impossible_grids_are_explained(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        suite(**copy.deepcopy(changes))
    assert said in str(error.value)


def test_a_suite_needs_models_or_experiments() -> None:
    with pytest.raises(UserError, match="names neither models nor experiments"):
        check_config({"seed": 1}, "lab.yaml")
