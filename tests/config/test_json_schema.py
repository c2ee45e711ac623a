"""The schema for editors: kept in step with the types, complete, and of the same opinion as `load_config`."""

import copy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from saelib.config.json_schema import config_schema, schema_text
from saelib.config.load import check_config, read_yaml
from saelib.errors import UserError

ROOT = Path(__file__).parents[2]
SCHEMA = config_schema()
EDITOR = Draft202012Validator(SCHEMA)
LAB = ("configs/lab.yaml", "configs/lab-full.yaml", "configs/lab-recovery.yaml", "configs/lab-recovery-fresh.yaml")
REMEDIES = tuple(f"configs/remedies{scale}.yaml" for scale in ("", "-full", "-whitened"))
SUITES = ("workflow_config.yaml", "configs/paper.yaml", *LAB, *REMEDIES)


def suite(**model: Any) -> dict[str, Any]:
    source = {"family": "spliceai", "weights": {"path": "weights.h5"}}
    return {
        "datasets": {"d": {"kind": "python_docs"}},
        "models": {"m": {"domain": "genomic", "source": source, "dataset": "d", "layers": [1, 2]} | model},
    }


def test_the_file_in_the_repository_is_what_the_command_prints() -> None:
    assert (ROOT / "configs/schema.json").read_text() == schema_text(), "run: saelib schema > configs/schema.json"


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_has_a_description() -> None:
    parts = {"Config": SCHEMA, **SCHEMA["$defs"]}
    keys = {(name, key): value for name, part in parts.items() for key, value in part.get("properties", {}).items()}
    assert len(keys) > 150
    assert [place for place, value in keys.items() if len(value.get("description", "")) < 5] == []
    assert keys["TrainConfig", "dead_after_examples"]["description"].startswith("A latent that has not fired")
    # An overridden key keeps what it means, and a key that opens a section means what the section is.
    assert keys["Esm2Source", "max_length"]["description"] == keys["TransformersSource", "max_length"]["description"]
    assert keys["Config", "extraction"]["description"] == SCHEMA["$defs"]["ExtractionConfig"]["description"]


@pytest.mark.parametrize("file", SUITES)
def test_editors_find_the_schema_and_no_mistake_in_our_suites(file: str) -> None:
    first = (ROOT / file).read_text().splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (ROOT / file).parent / named == ROOT / "configs/schema.json"
    assert [error.message for error in EDITOR.iter_errors(read_yaml(ROOT / file))] == []


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"layers": 3},
        {"layers": "1-4"},
        {"layers": ["1-2", 5, "7"], "train_layers": "all"},
        {"layers": "2-", "blocks": 4},
        {"representative_layer": 2, "stream": True},
        {"stream": False},
    ],
)
def test_short_forms_are_right_in_both_eyes(model: dict[str, Any]) -> None:
    raw = suite(**model)
    check_config(copy.deepcopy(raw), "suite")
    assert [error.message for error in EDITOR.iter_errors(raw)] == []


@pytest.mark.parametrize(
    "variant",
    [
        {"preprocessing": "pca", "architecture": "relu", "dead_latents": "none", "optimizer": "sign_sgd"},
        {"preprocessing": "auto", "architecture": {"kind": "jumprelu", "bandwidth": 0.01}},
        {"preprocessing": {"kind": "partial_pca", "alpha": 0.5}, "dead_latents": "auxk"},
        {"architecture": "batch_topk", "k_annealing": {"start": 64}, "bypass": {}},
        {"architecture": {"kind": "jumprelu", "penalty": "tanh"}, "dead_latents": "pre_act"},
        {"architecture": {"kind": "jumprelu", "penalty": {"kind": "tanh", "warmup": 0}}},
        {"architecture": "abs_topk", "aligned": True, "init": {"rows": "datapoint"}},
        {"init": {"rows": {"kind": "whitened", "alpha": 0.5}, "calibrate": True}},
    ],
)
def test_variants_by_name_and_with_options(variant: dict[str, Any]) -> None:
    raw = suite() | {"train": {"variants": {"v": variant}}}
    check_config(copy.deepcopy(raw), "suite")
    assert [error.message for error in EDITOR.iter_errors(raw)] == []


@pytest.mark.parametrize("gamma", [5, [1, 2.5, 20]])
def test_keys_of_a_grid_are_values_or_lists(gamma: Any) -> None:
    experiment = {"kind": "training", "shows": "x", "data": {"gamma": gamma}, "learning_rate": [1e-4, 1e-3]}
    raw = {"experiments": {"e": experiment}}
    check_config(copy.deepcopy(raw), "lab")
    assert [error.message for error in EDITOR.iter_errors(raw)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        suite(layers="first"),
        suite(layer=[1]),
        suite(source={"family": "spliceia", "weights": {"path": "w"}}),
        suite(source={"family": "spliceai", "weights": {"file": "w"}}),
        suite() | {"seed": -1},
        suite() | {"train": {"steps": 0}},
        suite() | {"train": {"variants": {"v": {"preprocessing": "whiten"}}}},
        suite() | {"train": {"variants": {"v": {"preprocessing": "partial_pca"}}}},
        {"datasets": {}},
        suite() | {"experiments": {"e": {"kind": "init_death", "shows": "x", "data": {"gama": 1}}}},
        suite() | {"experiments": {"e": {"kind": "init_death", "shows": "x", "data": {"gamma": [1, -1]}}}},
        {"experiments": {}},
    ],
)
def test_mistakes_are_mistakes_in_both_eyes(wrong: dict[str, Any]) -> None:
    assert list(EDITOR.iter_errors(wrong))
    with pytest.raises(UserError):
        check_config(copy.deepcopy(wrong), "suite")
