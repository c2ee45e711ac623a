"""The figure of the evaluation says what its arrows stand for, and has them only if a point is outside."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.collections import PathCollection

from saelib.report.figures.evaluation import LOWEST, evaluation_figure


def table(explained: float) -> pl.DataFrame:
    rows = {"model": "m", "layer": 3, "site": "residual", "mcc_between_seeds": 0.5}
    kinds = [
        {"kind": "pca", "trained": True, "explained": explained},
        {"kind": "random", "trained": False, "explained": 0.2},
    ]
    missing = dict.fromkeys(("twin_cosine_mean", "concept_f1", "probe_auc", "monosemanticity", "ce_loss_score"))
    return pl.DataFrame([rows | one | missing for one in kinds]).rename({"explained": "typical_explained_variance"})


@pytest.mark.parametrize("explained", [0.9, -3.0])
def test_points_outside_are_arrows_with_an_entry_in_the_legend(explained: float) -> None:
    figure: Any = evaluation_figure(table(explained))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    outside = explained < LOWEST
    assert texts == ["pca", "random", *(["below \N{MINUS SIGN}0.25"] if outside else [])]
    panels = figure.axes
    assert len(panels) == 2
    points = [part for part in panels[0].collections if isinstance(part, PathCollection)]
    places = np.concatenate([np.asarray(part.get_offsets()) for part in points])[:, 0]
    assert sorted(places) == pytest.approx(sorted([max(explained, LOWEST), 0.2]))
