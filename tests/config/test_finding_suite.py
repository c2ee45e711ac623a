"""configs/finding.yaml adds to the default suite: seeds of every variant, and an evaluation."""

from collections import Counter
from pathlib import Path

from saelib.config import load_config
from saelib.evaluation.judged import kinds_of

PROJECT = Path(__file__).parents[2]


def test_every_kind_has_three_seeds() -> None:
    kinds = ("baseline", "auxk", "center_median", "pca", "wide", "frozen_decoder")
    config = load_config(PROJECT / "workflow_config.yaml", PROJECT / "configs" / "finding.yaml")
    assert Counter(kinds_of(config).values()) == dict.fromkeys(kinds, 3)
    seeds = {config.train.variants[name].seed for name, kind in kinds_of(config).items() if kind == "wide"}
    assert seeds == {None, 1, 2}
    assert config.seed == 0
    assert config.evaluation is not None
    assert config.evaluation.references == ("baseline", "wide")
    assert config.train.largest_d_sae == 4 * config.train.d_sae


def test_every_model_reads_annotated_data() -> None:
    config = load_config(PROJECT / "workflow_config.yaml", PROJECT / "configs" / "finding.yaml")
    assert config.evaluation is not None
    assert {model.dataset for model in config.models.values()} == set(config.evaluation.labels)
