"""Every mistake in a configuration, at once, with its key and what would be right."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from saelib.config import Config, load_config
from saelib.config.json_schema import schema_text
from saelib.config.load import FORMS, check_config, read_yaml
from saelib.errors import UserError
from tests.config.mistakes import GOOD, changed, message


def test_a_good_suite_is_read_with_its_defaults() -> None:
    config = check_config(GOOD, "suite.yaml")
    assert config.models["m"].layers == (1, 2, 3)
    assert set(config.train.variants) == {"baseline", "auxk", "center_median", "pca"}


def test_what_is_read_survives_being_written() -> None:
    config = check_config(GOOD, "suite.yaml")
    assert Config.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sead", 1, ["sead: unknown key", "did you mean 'seed'?"]),
        ("models.m.layer", 3, ["models.m.layer: unknown key", "did you mean 'layers'?"]),
        ("models.m.source.famly", 3, ["models.m.source.famly: unknown key", "did you mean 'family'?"]),
        (
            "models.m.source.family",
            "transformer",
            ["models.m.source.family", "did you mean 'transformers'?", "spliceai"],
        ),
        ("models.m.source.weights", {"pth": "/x"}, ["models.m.source.weights: needs one of the keys"]),
        ("models.m.dataset", "doc", ["models.m.dataset: no data set 'doc'", "did you mean 'docs'?"]),
        ("models.m.layers", "5-2", ["models.m.layers: '5-2' is not a layer number, a range"]),
        ("models.m.layers", [], ["models.m.layers: names no layer"]),
        ("models.m.licence", "MIT", ["models.m.licence: is now called 'license'"]),
        ("extraction.tokens", True, ["extraction.tokens: should be a number (found true)"]),
        ("models.m.representative_layer", 9, ["models.m: representative_layer 9 is not among layers 1-3"]),
        ("models.m.train_layers", "3-4", ["models.m: train_layers 4 is not among layers 1-3"]),
        (
            "models.m.stream",
            {"buffer_row": 1},
            ["models.m.stream.buffer_row: unknown key", "did you mean 'buffer_rows'?"],
        ),
        ("models.m.stream", {"buffer_rows": 0}, ["models.m.stream.buffer_rows: input should be greater than 0"]),
        ("models", {}, ["names neither models nor experiments"]),
        (
            "models.a/b",
            GOOD["models"]["m"],
            ["models.a/b: should be letters, digits and . _ + -, of which"],
        ),
        ("models...", GOOD["models"]["m"], ["a letter or digit comes first"]),
        (
            "train.device",
            "gpu",
            ["train.device: should be auto, cpu, cuda or a certain GPU", "(found 'gpu')"],
        ),
        ("results", 5, ["results: should be a path (found 5)"]),
        ("train", [1], ["train: should be a mapping of keys to values (found [1])"]),
        ("models.m.layers", "1-99999999999", ["models.m.layers: '1-99999999999': no model has a layer beyond 10,000"]),
        ("extraction.tokens", 10**20, ["extraction.tokens: input should be less than or equal to 1000000000000"]),
        ("compare", {"table": "no.csv"}, ["compare.table: no file no.csv"]),
        ("heldout_fraction", float("nan"), ["heldout_fraction: input should be a finite number (found NaN)"]),
        ("train.learning_rates", [float("inf")], ["train.learning_rates.0: input should be a finite number"]),
        ("train.learning_rates", [1e-3, 0.001, 1e-4], ["train.learning_rates: lists 0.001 more than once"]),
        ("init_death.k", 5000, ["init_death: k = 5000 is larger than d_sae = 2048"]),
        ("init_death.d_sae", -4, ["init_death.d_sae: input should be greater than 0 (found -4)"]),
        # As YAML has it, not as Python writes it.
        ("init_death.d_sae", None, ["init_death.d_sae: input should be a valid integer (found null)"]),
        ("train.log_to", True, ["train.log_to: true is not allowed"]),
        (
            "init_death.preprocessings",
            ["raw", "pcaa"],
            ["init_death.preprocessings.1", "did you mean 'pca'?", "zscore"],
        ),
        ("train.learning_rates", [], ["train.learning_rates: should have at least 1 item"]),
        ("train.learning_rates", ["fast"], ["train.learning_rates.0", "found 'fast'"]),
        (
            "train.variants",
            {"x": {"dead_latent": "auxk"}},
            ["train.variants.x.dead_latent: unknown key", "did you mean 'dead_latents'?"],
        ),
        ("train.variants", {"x": {"revival": "auxk"}}, ["train.variants.x.revival: is now called 'dead_latents'"]),
        (
            "train.variants",
            {"x": {"dead_latents": {"kind": "auxk", "coefficient": 0.1}}},
            ["train.variants.x.dead_latents.coefficient: is now called 'auxk_coefficient'"],
        ),
        (
            "train.variants",
            {"x": {"dead_latents": "aux"}},
            ["train.variants.x.dead_latents.kind: no such value 'aux'", "did you mean 'auxk'?", "ghost_grads"],
        ),
        (
            "train.variants",
            {"x": {"architecture": "top_k"}},
            ["train.variants.x.architecture.kind: no such value 'top_k'", "did you mean 'topk'?"],
        ),
        ("train.variants", {"x": {"preprocessing": "partial_pca"}}, ["train.variants.x.preprocessing.alpha: missing"]),
        (
            "train.variants",
            {"x": {"preprocessing": {"kind": "partial_pca", "alpha": 1.5}}},
            ["train.variants.x.preprocessing.alpha: input should be less than or equal to 1"],
        ),
        (
            "train.variants",
            {"x": {"preprocessing": {"kind": "pca", "alpha": 1}}},
            ["train.variants.x.preprocessing.alpha: unknown key"],
        ),
        (
            "train.variants",
            {"x": {"dead_latents": {"kind": "auxk", "coeficient": 1}}},
            ["train.variants.x.dead_latents.coeficient: unknown key", "did you mean 'auxk_coefficient'?"],
        ),
        (
            "train.variants",
            {"x": {"schedule": {"warmup": 0.9, "decay_from": 0.5}}},
            ["train.variants.x.schedule: warmup (0.9) ends after the decay begins (0.5)"],
        ),
        (
            "train.variants",
            {"x": {"init": {"firing_rate": 1}}},
            ["train.variants.x.init.firing_rate: input should be less than 1"],
        ),
        (
            "train.variants",
            {"x": {"architecture": {"kind": "matryoshka_batch_topk", "prefixes": [8, 8]}}},
            ["train.variants.x.architecture: prefixes must ascend (found [8, 8])"],
        ),
        (
            "train.variants",
            {"x": {"architecture": {"kind": "matryoshka_batch_topk", "prefixes": [8, 5000]}}},
            ["train: variants.x: prefixes must be below d_sae = 1024 (found 5000)"],
        ),
        (
            "train.variants",
            {"x": {"architecture": "abs_topk", "dead_latents": "ghost_grads"}},
            ["train.variants.x: dead_latents: ghost_grads is made for latents of one sign"],
        ),
        (
            "train.variants",
            {"x": {"architecture": "abs_topk", "init": {"firing_rate": 0.1}}},
            ["train.variants.x: init.firing_rate sets how often a latent is positive"],
        ),
        (
            "train.variants",
            {"x": {"architecture": "abs_topk", "preprocessing": "auto"}},
            ["train.variants.x: preprocessing: auto cannot predict the death of abs_topk"],
        ),
        (
            "train.variants",
            {"x": {"init": {"rows": "whitened"}, "preprocessing": "pca"}},
            ["train.variants.x: init.rows: whitened needs a preprocessing that only centers (found pca)"],
        ),
        (
            "train.variants",
            {"x": {"init": {"rows": "datapoint"}, "preprocessing": "active_subspace"}},
            ["train.variants.x: init.rows: datapoint and preprocessing: active_subspace both choose"],
        ),
        (
            "train.variants",
            {"x": {"init": {"rows": "datapoint", "tied": False}}},
            ["train.variants.x.init: rows: datapoint gives encoder and decoder the same directions"],
        ),
        (
            "train.variants",
            {"x": {"init": {"rows": "data"}}},
            ["train.variants.x.init.rows.kind: no such value 'data'", "did you mean 'datapoint'?"],
        ),
        (
            "train.variants",
            {"x": {"init": {"calibrate": True}, "aligned": True}},
            ["train.variants.x: init.calibrate would scale encoders, whose length aligned fixes"],
        ),
        (
            "train.variants",
            {"x": {"frozen": "decoder", "aligned": True}},
            ["train.variants.x: aligned moves encoder and decoder together, which frozen: decoder forbids"],
        ),
        (
            "train.variants",
            {"x": {"init": {"calibrate": True}, "architecture": "jumprelu"}},
            ["train.variants.x: init.calibrate would scale pre-activations, but not the thresholds of jumprelu"],
        ),
        (
            "train.variants",
            {"x": {"k_annealing": {"start": 16}}},
            ["train: variants.x.k_annealing.start = 16 is not between k = 32 and d_sae = 1024"],
        ),
        (
            "train.variants",
            {"x": {"k_annealing": {}, "architecture": "relu"}},
            ["train.variants.x: k_annealing needs an architecture that selects k latents (found relu)"],
        ),
        (
            "train.variants",
            {"x": {"architecture": {"kind": "jumprelu", "penalty": "tanh", "target_l0": 9}}},
            ["train.variants.x.architecture: penalty: tanh aims at no L0"],
        ),
        (
            "train.variants",
            {"x": {"architecture": {"kind": "jumprelu", "penalty": {"kind": "tan"}}}},
            ["train.variants.x.architecture.penalty.kind: no such value 'tan'", "did you mean 'tanh'?"],
        ),
        ("train.k", 2000, ["train: k = 2000 is larger than d_sae = 1024"]),
        ("train.log_to", "tensorbord", ["train.log_to: 'tensorbord' is not allowed; did you mean 'tensorboard'?"]),
        ("extraction.dtype", "float8", ["extraction.dtype: 'float8' is not allowed", "bfloat16"]),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_is_allowed(path: str, value: Any, expected: list[str]) -> None:
    if path == "models...":
        suite = changed("seed", 0)
        suite["models"][".."] = GOOD["models"]["m"]
    else:
        suite = changed(path, value)
    text = message(suite)
    assert "suite.yaml: 1 mistake\n" in text
    for part in expected:
        assert part in text


def test_all_mistakes_are_reported_at_once() -> None:
    suite = changed("sead", 1) | {"init_death": {"k": 0}, "train": {"steps": "many"}}
    text = message(suite)
    assert "3 mistakes" in text
    assert all(key in text for key in ("sead", "init_death.k", "train.steps"))


@pytest.mark.parametrize("suite", [None, [], "models", 3])
def test_something_else_than_a_mapping(suite: Any) -> None:
    assert "should be a mapping" in message(suite)


def test_files_that_are_not_configurations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such configuration file"):
        load_config(tmp_path / "nothing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("models: [unclosed\n")
    with pytest.raises(UserError, match=r"broken\.yaml: not valid YAML, line 2: expected"):
        load_config(broken)
    broken.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="line 2: the key 'seed' appears twice"):
        load_config(broken)
    for text, complaint in (
        (b"? [a, b]\n: c\n", "line 1: a key must be a word"),
        (b"[" * 5000, "nested too deeply"),
        (b"\x93NUMPY", "its bytes are not text in UTF-8"),
    ):
        broken.write_bytes(text)
        with pytest.raises(UserError, match=complaint):
            load_config(broken)
    with pytest.raises(UserError, match="is a folder; name the configuration file in it"):
        load_config(tmp_path)


def test_every_pattern_of_the_schema_is_explained_in_words() -> None:
    patterns = set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', schema_text()))
    assert {json.loads(pattern) for pattern in patterns} <= set(FORMS)
    assert len(patterns) >= len(FORMS) - 1  # layers are parsed before their pattern is looked at


def test_yaml_runs_nothing_and_reads_rates_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: !!python/object/apply:os.system ['touch /tmp/never']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(file)
    file.write_text("a: [1e-3, 1.5e-4, 3]\nb: 0012ab\n")
    assert read_yaml(file) == {"a": [1e-3, 1.5e-4, 3], "b": "0012ab"}


def test_arrays_bring_their_own_activations() -> None:
    source = {"family": "arrays", "files": {1: "a.npy", 2: "b.npy"}}
    suite = changed("models.m.source", source)
    assert "models.m.dataset: the family 'arrays' has its own activations" in message(suite)
    del suite["models"]["m"]["dataset"]
    assert "models.m.source.files: no file for layer 3" in message(suite)


def test_a_variant_is_written_short_or_in_full(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        """
        short: {preprocessing: pca, architecture: batch_topk, dead_latents: auxk, optimizer: sign_sgd}
        full:
          preprocessing: {kind: partial_pca, alpha: 0.5}
          architecture: {kind: jumprelu, target_l0: 20}
          dead_latents: {kind: resample, every: 100}
          optimizer: {kind: adam, sparse: true}
          schedule: {warmup: 0.05, decay_from: 0.5}
          init: {rows: uniform, tied: false, firing_rate: 1e-2}
          clip: 1
          frozen: b_dec
          learning_rates: [1e-4, 3e-4]
        """
    )
    variants = check_config(changed("train.variants", read_yaml(file)), "suite.yaml").train.variants
    short, full = variants["short"], variants["full"]
    kinds = (short.preprocessing.kind, short.architecture.kind, short.dead_latents.kind, short.optimizer.kind)
    assert kinds == ("pca", "batch_topk", "auxk", "sign_sgd")
    assert full.preprocessing.model_dump() == {"kind": "partial_pca", "alpha": 0.5}
    assert full.learning_rates == (1e-4, 3e-4)
    assert (full.init.firing_rate, full.clip, full.frozen) == (0.01, 1, "b_dec")


def test_what_decides_the_numbers_is_told_apart_from_what_shows_them() -> None:
    def deciding(**changes: Any) -> dict[str, Any]:
        config = check_config(changed("train", changes), "suite.yaml").train
        return config.deciding(config.variants["baseline"])

    assert deciding() == deciding(threads=2, log_to="wandb", checkpoint_every=7)
    own = {"baseline": {"learning_rates": [0.1]}}
    assert deciding(variants=own) == deciding(variants=own, learning_rates=[0.5]) == deciding(learning_rates=[0.1])
    for change in ({"steps": 7}, {"record_every": 3}, {"precision": "bfloat16"}, {"learning_rates": [0.3]}):
        assert deciding(**change) != deciding()


@pytest.mark.parametrize(
    ("variant", "needed"),
    [
        ({"preprocessing": "center_median"}, False),
        ({"preprocessing": "pca"}, True),
        ({"init": {"rows": "whitened"}}, True),
        ({"init": {"rows": "datapoint"}}, False),
    ],
)
def test_statistics_hold_eigenvectors_if_a_variant_starts_from_them(variant: dict[str, Any], needed: bool) -> None:
    suite = changed("train", {"variants": {"x": variant}})
    suite["init_death"] = {"preprocessings": ["raw"]}
    assert check_config(suite, "suite.yaml").needs_whitening() == needed
