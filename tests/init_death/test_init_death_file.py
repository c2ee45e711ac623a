import json
from pathlib import Path

import numpy as np
import pytest

from saelib.activations.rows import ArrayRows
from saelib.errors import UserError
from saelib.init_death.measure import measure
from saelib.init_death.result import InitDeath, Rate, load_result, save_result
from saelib.preprocessing.transform import Preprocessing


def some_result() -> InitDeath:
    x = np.random.default_rng(0).standard_normal((100, 6)) + 2
    preprocessings = {
        "raw": Preprocessing(np.zeros(6)),
        "pca": Preprocessing(x.mean(0), np.eye(6, 4, dtype=np.float32)),
    }
    return measure(ArrayRows(x), preprocessings, 16, 3, [0, 1, 2])


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    result = some_result()
    save_result(result, tmp_path / "layer_3.json", key="abc")
    loaded = load_result(tmp_path / "layer_3.json")
    assert (loaded, loaded.key) == (result, "abc")


def test_the_file_holds_its_key_and_readable_rates(tmp_path: Path) -> None:
    result = some_result()
    save_result(result, tmp_path / "x.json", key="abc")
    raw = json.loads((tmp_path / "x.json").read_text())
    assert raw["key"] == "abc"
    assert (raw["tokens"], raw["d_in"], raw["d_sae"], raw["k"], raw["seeds"]) == (100, 6, 16, 3, [0, 1, 2])
    for name, death in result.preprocessings.items():
        entry = raw["preprocessings"][name]
        for rate in ("dead_relu", "dead_topk_only", "dead_total"):
            assert entry[rate]["mean"] == np.mean(entry[rate]["per_seed"])
            assert entry[rate]["sd"] == pytest.approx(np.std(entry[rate]["per_seed"], ddof=1))
        assert entry["curve_total"] == list(death.curve_total)
        assert entry["dead_total"]["mean"] == pytest.approx(
            entry["dead_relu"]["mean"] + entry["dead_topk_only"]["mean"]
        )


def test_one_seed_has_no_spread() -> None:
    assert (Rate((0.25,)).mean, Rate((0.25,)).sd) == (0.25, 0.0)


@pytest.mark.parametrize(
    ("content", "field"),
    [("[]", "content"), ("{}", "tokens"), ('{"tokens": 3}', "d_in"), ('{"tokens": "3"}', "tokens")],
)
def test_another_file_is_refused_with_its_name_and_the_field(tmp_path: Path, content: str, field: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=rf"x\.json: {field}: "):
        load_result(tmp_path / "x.json")


@pytest.mark.parametrize("per_seed", [[], [None], ["0.5"], [float("nan")]])
def test_rates_that_are_no_numbers_are_refused(tmp_path: Path, per_seed: list[object]) -> None:
    save_result(some_result(), tmp_path / "x.json", key="abc")
    raw = json.loads((tmp_path / "x.json").read_text())
    raw["preprocessings"]["pca"]["dead_relu"]["per_seed"] = per_seed
    (tmp_path / "x.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"x\.json: preprocessings\.pca\.dead_relu\.per_seed"):
        load_result(tmp_path / "x.json")
