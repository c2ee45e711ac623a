"""Configuration files that add to each other."""

from pathlib import Path

import pytest
import yaml

from saelib.config import load_config
from saelib.config.load import merged, read_yaml
from saelib.errors import UserError
from tests.config.mistakes import GOOD


def test_a_second_file_adds_to_the_first(tmp_path: Path) -> None:
    """As Snakemake does with several files after --configfile."""
    from snakemake.utils import update_config

    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(
        "results: one\ntrain: {steps: 5, learning_rates: [0.1, 0.2], variants: {baseline: {}}}\n" + yaml.dump(GOOD)
    )
    second.write_text("results: two\ntrain: {learning_rates: [0.3], variants: {pca: {preprocessing: pca}}}\n")
    config = load_config(first, second)
    assert (str(config.results), config.train.steps, config.train.learning_rates) == ("two", 5, (0.3,))
    assert list(config.train.variants) == ["baseline", "pca"]
    expected = read_yaml(first)
    update_config(expected, read_yaml(second))
    assert merged(read_yaml(first), read_yaml(second)) == expected
    second.write_text("resluts: two\n")
    with pytest.raises(UserError, match=r"a\.yaml \+ .*b\.yaml: 1 mistake\n  resluts:"):
        load_config(first, second)
