"""Exports for SAEDashboard and Neuronpedia: their examples are those of the codes, and both packages read them."""

import gzip
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import python_of
from saelib import UserError
from saelib.evaluation.seen import Seen
from saelib.features import dashboards
from saelib.features.directions import nearest
from saelib.features.exports import write_exports
from saelib.features.neuronpedia import source_of
from saelib.features.passages import PART, SPECIAL, Passages, split_text
from tests.cli.test_cli import saelib
from tests.features.conftest import LATENTS, SAE, decoder

PLACE = ("layer_3", "2-saelib-res-pca-seed0")


@pytest.fixture(scope="module")
def exported(written: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Path, Path]:
    """The evaluation of hostile texts, and its exports for SAEDashboard and Neuronpedia."""
    seen, out = written("text"), tmp_path_factory.mktemp("exports")
    folders = write_exports(seen, SAE, out / "neuronpedia", out / "saedashboard", decoder())
    assert folders == [next((out / "neuronpedia").glob("*/*")), out / "saedashboard"]
    return seen, out / "saedashboard", out / "neuronpedia"


def features(folder: Path) -> list[dict[str, Any]]:
    return [one for path in sorted(folder.glob("*.json")) for one in json.loads(path.read_text())["features"]]


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    paths = sorted(folder.glob(f"*/*/{name}"))
    texts = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in paths]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def test_tokens_are_the_text() -> None:
    assert split_text("one two", [(0, 3), (3, 7)], 0) == ["one", " two"]
    assert split_text("one two", [(0, 0), (0, 3), (4, 7), (0, 0)], 0) == [SPECIAL, "one", " two", SPECIAL]
    assert split_text("a😀b", [(0, 1), (1, 2), (1, 2), (2, 3)], 0) == ["a", "😀", PART, "b"]
    assert split_text("a" + 90 * " " + "b", [(0, 1), (91, 92)], 0) == ["a", 20 * " " + "b"]


def test_any_cut_of_a_text_has_the_same_tokens(written: Any) -> None:
    seen = written("text")
    passages = Passages(seen)
    for example, count in enumerate(passages.counts):
        whole = passages.tokens(example, 0, min(count, 60))
        for start in range(0, len(whole), 7):
            assert passages.tokens(example, start, len(whole))[1:] == whole[start + 1 :]
    hostile = "".join(passages.tokens(0, 0, passages.counts[0]))
    assert hostile == seen.examples["text"][0]


def test_examples_are_those_of_the_codes(exported: tuple[Seen, Path, Path]) -> None:
    """The strongest ones are exactly the highest peaks, and the values are the codes around them."""
    seen, folder, _ = exported
    codes, passages = seen.codes(SAE).toarray(), Passages(seen)
    of_example = np.split(codes, passages.first_token[1:])
    for latent in features(folder):
        own = [one[:, latent["feature_index"]] for one in of_example]
        fires = [values for values in own if values.any()]
        top = [one for one in latent["activations"] if one["bin_contains"] == -1]
        peaks = sorted((values[values != 0].max() for values in fires), reverse=True)
        shown = [one["values"][one["qualifying_token_index"]] for one in top]
        assert shown == pytest.approx(peaks[: dashboards.TOP], rel=1e-3)
        assert latent["frac_nonzero"] == pytest.approx((codes[:, latent["feature_index"]] != 0).mean())
        assert sum(latent["freq_hist_data_bar_heights"]) == sum((values != 0).sum() for values in own)
        for one in latent["activations"]:
            length = len(one["tokens"])
            assert length == len(one["values"]) <= 2 * dashboards.REACH
            windows = [values[i : i + length] for values in fires for i in range(max(1, len(values) - length + 1))]
            assert any(len(w) == length and np.allclose(one["values"], w, rtol=1e-3) for w in windows)


def test_intervals_are_equal_steps_with_their_shares(
    exported: tuple[Seen, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few strongest examples, the others come in groups, whose examples peak there and are in none before."""
    monkeypatch.setattr(dashboards, "TOP", 2)
    seen, codes, groups = exported[0], exported[0].codes(SAE).toarray(), []
    for latent in dashboards.dashboards(seen, SAE):
        values = codes[:, latent["feature_index"]]
        groups = [one for one in latent["activations"] if one["bin_contains"] != -1]
        for one in groups:
            low, high = one["bin_min"], one["bin_max"]
            assert low < one["values"][one["qualifying_token_index"]] * 1.001
            assert one["values"][one["qualifying_token_index"]] <= high * 1.001
            assert high - low == pytest.approx(values.max() / dashboards.INTERVALS)
            assert one["bin_contains"] == pytest.approx(((values >= low) & (values <= high)).mean())
        assert [one["bin_max"] for one in groups] == sorted((one["bin_max"] for one in groups), reverse=True)
    assert groups


def test_dashboards_name_the_dimensions_that_a_latent_writes_to(exported: tuple[Seen, Path, Path]) -> None:
    for latent, direction in zip(features(exported[1]), decoder(), strict=True):
        dimensions = latent["neuron_alignment_indices"]
        assert dimensions == np.argsort(-direction)[:3].tolist()
        assert latent["neuron_alignment_values"] == pytest.approx(direction[dimensions].tolist(), rel=1e-3)
        shares = np.abs(direction[dimensions]) / np.abs(direction).sum()
        assert latent["neuron_alignment_l1"] == pytest.approx(shares.tolist(), rel=1e-3)


def test_neuronpedia_gets_the_same_dashboards(exported: tuple[Seen, Path, Path]) -> None:
    _, saedashboard, folder = exported
    latents, near = lines(folder, "features/*.gz"), nearest(decoder())
    assert [int(one["index"]) for one in latents] == list(range(LATENTS))
    activations = lines(folder, "activations/*.gz")
    assert len({one["id"] for one in activations}) == len(activations)
    place = iter(activations)
    for latent, dashboard in zip(latents, features(saedashboard), strict=True):
        assert {name: latent[name] for name in dashboard.keys() & latent.keys() if name != "vector"}.items() <= (
            dashboard.items()
        )
        assert latent["topkCosSimIndices"] == near.latents[int(latent["index"])].tolist()
        for shown in dashboard["activations"]:
            one = next(place)
            assert (one["index"], one["layer"], one["modelId"]) == (latent["index"], latent["layer"], latent["modelId"])
            assert (one["tokens"], one["values"]) == (shown["tokens"], shown["values"])
            assert one["values"][one["maxValueTokenIndex"]] == one["maxValue"] == max(one["values"])
    assert next(place, None) is None


def test_every_file_names_the_same_model_and_sae(exported: tuple[Seen, Path, Path]) -> None:
    folder = exported[2]
    (release,), (model,), (sae_set,), (source,) = (
        lines(folder, f"{name}.jsonl") for name in ("release", "model", "sourceset", "source")
    )
    path = next(folder.glob("*/*"))
    assert (model["id"], source["id"]) == path.parts[-2:]
    assert path.name == PLACE[1]
    assert sae_set["modelId"] == source["modelId"] == model["id"]
    assert (source["setName"], sae_set["releaseName"]) == (sae_set["name"], release["name"])
    assert {(one["modelId"], one["layer"]) for one in lines(folder, "features/*.gz")} == {path.parts[-2:]}


@pytest.mark.parametrize(
    ("folder", "place", "name"),
    [
        ("GPT 2/layer_0", "blocks.0.hook_resid_pre", "0-saelib-res-a-seed0"),
        ("gpt-2/layer_5", "blocks.4.hook_resid_post", "4-saelib-res-a-seed0"),
        ("gpt-2/layer_5_mlp_out", "blocks.4.hook_mlp_out", "4-saelib-mlp-a-seed0"),
    ],
)
def test_a_layer_is_the_output_of_the_block_before(folder: str, place: str, name: str, tmp_path: Path) -> None:
    source = source_of(tmp_path / folder, "A seed0")
    assert (source.model, source.hook, source.id) == ("gpt-2", place, name)


def test_other_folders_and_models_get_one_sentence(written: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("evaluation: should be the folder of one layer, such as")):
        source_of(tmp_path / "evaluation", "a")
    said = saelib("features", written("sequence").folder, SAE, "--to", tmp_path / "p", "--neuronpedia", tmp_path / "n", code=1)  # fmt: skip  # noqa: E501
    assert "this export is for language models, and these examples are sequence" in said
    assert not (tmp_path / "p").exists()
    assert not list(tmp_path.rglob("*.jsonl*"))


def test_the_command_writes_exports_next_to_the_pages(written: Any, tmp_path: Path) -> None:
    said = saelib("features", written("text").folder, SAE, "--to", tmp_path / "p", "--saedashboard", tmp_path / "s")
    assert said.splitlines() == [f"{tmp_path / 'p' / 'index.html'}: written", f"{tmp_path / 's'}: written"]
    assert len(features(tmp_path / "s")) == LATENTS


@pytest.mark.interop
def test_the_packages_read_the_exports(written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = python_of("viewers")
    if python is None:
        pytest.skip("viewers are not installed; make test-interop installs them")
    monkeypatch.setattr(dashboards, "TOP", 2)
    neuronpedia, saedashboard = tmp_path / "neuronpedia", tmp_path / "saedashboard"
    write_exports(written("text"), SAE, neuronpedia, saedashboard)
    script = Path(__file__).parent / "peers" / "read_dashboards.py"
    done = subprocess.run([python, script, saedashboard, neuronpedia], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(found["unchanged"])
    assert found["latents"] == list(range(LATENTS))
    rows = [one for one in lines(neuronpedia, "activations/*.gz") if one["binContains"] >= 0]
    assert rows
    assert found["random"] == [[one["layer"], int(one["index"]), one["tokens"], one["values"]] for one in rows]
