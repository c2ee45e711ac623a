"""Model, hook point and context travel with an SAE, into the libraries' files and back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saelib.cli import main
from saelib.config import Config
from saelib.config.sites import LayerSite
from saelib.interchange import FORMATS, export_sae, import_sae
from saelib.sae.file import SavedSAE, load_sae, save_sae
from saelib.sae.origin import Origin, origin_of, read_origin, with_origin
from saelib.train.origin import origin_of_layer

GPT2 = Origin("gpt2", "blocks.5.hook_resid_post", context_size=128, prepend_bos=False, dataset_path="org/text")


@pytest.fixture
def known(make: Any) -> SavedSAE:
    saved = make("topk", "raw")
    return replace(saved, about=with_origin(saved.about, GPT2))


def settings(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*.json")
    return json.loads(file.read_text())


def test_saelens_gets_what_its_dashboards_ask_for(known: SavedSAE, tmp_path: Path) -> None:
    export_sae(known, "saelens", tmp_path / "out")
    metadata = settings(tmp_path / "out")["metadata"]
    assert metadata["gamma"] == 20.0
    assert "origin" not in metadata
    wanted = {
        "model_name": "gpt2",
        "hook_name": "blocks.5.hook_resid_post",
        "hook_layer": 5,
        "hook_head_index": None,
        "context_size": 128,
        "prepend_bos": False,
        "dataset_path": "org/text",
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": {"center_writing_weights": False},
    }
    assert {name: metadata[name] for name in wanted} == wanted


def test_dictionary_learning_gets_its_own_names(known: SavedSAE, tmp_path: Path) -> None:
    export_sae(known, "dictionary_learning", tmp_path / "out")
    config = settings(tmp_path / "out")
    trainer = config["trainer"]
    assert (trainer["lm_name"], trainer["layer"]) == ("gpt2", 5)
    assert trainer["submodule_name"] == "blocks.5.hook_resid_post"
    assert config["buffer"] == {"d_submodule": 24, "io": "out", "ctx_len": 128}


@pytest.mark.parametrize("library", FORMATS)
def test_an_origin_comes_back_and_leaves_again(library: str, known: SavedSAE, tmp_path: Path) -> None:
    export_sae(known, library, tmp_path / library)
    back = import_sae(tmp_path / library)
    assert origin_of(back.about) == GPT2
    save_sae(back, tmp_path / "back.safetensors")
    export_sae(load_sae(tmp_path / "back.safetensors"), library, tmp_path / "again")
    assert origin_of(import_sae(tmp_path / "again").about) == GPT2


@pytest.mark.parametrize("library", FORMATS)
def test_a_file_that_knows_nothing_is_exported_as_before(library: str, make: Any, tmp_path: Path) -> None:
    export_sae(replace(make("topk", "raw"), about={}), library, tmp_path / library)
    config = settings(tmp_path / library)
    assert "buffer" not in config
    assert "submodule_name" not in config.get("trainer", {})
    assert set(config.get("metadata", {})) <= {"sae_lens_version", "sae_lens_training_version"}
    assert "origin" not in import_sae(tmp_path / library).about


def test_what_the_libraries_themselves_wrote_is_read(make: Any, tmp_path: Path) -> None:
    saved = replace(make("topk", "raw"), about={})

    def imported(library: str, folder: str, change: Any) -> Origin:
        export_sae(saved, library, tmp_path / folder)
        (file,) = (tmp_path / folder).glob("*.json")
        config = json.loads(file.read_text())
        config.pop("saelib", None)
        change(config)
        file.write_text(json.dumps(config))
        return origin_of(import_sae(tmp_path / folder).about)

    old = {"model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "context_size": 128, "metadata": {}}
    assert imported("saelens", "old", lambda config: config.update(old)) == Origin(
        "gpt2-small", "blocks.8.hook_resid_pre", context_size=128
    )
    theirs = {"lm_name": "EleutherAI/pythia-70m", "submodule_name": "resid_post_layer_3"}

    def of_a_trainer(config: dict[str, Any]) -> None:
        config["trainer"].update(theirs)
        config["buffer"] = {"io": "out", "ctx_len": 1024}

    expected = Origin("EleutherAI/pythia-70m", "resid_post_layer_3", context_size=1024)
    assert imported("dictionary_learning", "trainer_0", of_a_trainer) == expected
    run = {"model": "HuggingFaceTB/SmolLM2-135M", "dataset": "org/text", "ctx_len": 2048}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(run))
    found = imported("sparsify", "run/layers.10.mlp", lambda _: None)
    assert (found.model_name, found.hook_name, found.hook_layer) == (run["model"], "layers.10.mlp", 10)
    assert (found.context_size, found.dataset_path) == (2048, "org/text")
    assert imported("sparsify", "run/best", lambda _: None).hook_name is None


def test_values_of_another_type_count_as_unknown() -> None:
    hostile = {"model_name": 3, "hook_name": ["x"], "context_size": True, "prepend_bos": 1, "dataset_path": None}
    assert read_origin(hostile) == read_origin("x") == origin_of({"origin": 7}) == Origin()


def test_the_options_of_export_add_to_the_file_and_replace_it(
    known: SavedSAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sae(known, tmp_path / "sae.safetensors")
    words = ["export", tmp_path / "sae.safetensors", tmp_path / "out", "--to", "saelens"]
    options = ["--hook-name", "transformer.h.7", "--context-size", 64, "--prepend-bos"]
    monkeypatch.setattr("sys.argv", ["saelib", *map(str, [*words, *options])])
    with pytest.raises(SystemExit):
        main()
    metadata = settings(tmp_path / "out")["metadata"]
    assert (metadata["model_name"], metadata["hook_name"], metadata["hook_layer"]) == ("gpt2", "transformer.h.7", 7)
    assert (metadata["context_size"], metadata["prepend_bos"]) == (64, True)
    assert (metadata["model_class_name"], metadata["model_from_pretrained_kwargs"]) == ("AutoModelForCausalLM", {})


def test_the_suite_knows_model_hook_point_context_and_data() -> None:
    text = {"kind": "text", "hub": {"hf": "org/text", "revision": "main"}}
    source = {"family": "transformers", "weights": {"hf": "openai-community/gpt2"}, "max_length": 512}
    esm = {"family": "esm2", "weights": {"path": "esm2.pt"}}
    models = {
        "gpt2": {"domain": "language", "source": source, "dataset": "text", "layers": [0, 6]},
        "esm2": {"domain": "protein", "source": esm, "dataset": "text", "layers": [3]},
    }
    config = Config.model_validate({"datasets": {"text": text}, "models": models})
    sixth = origin_of_layer(config, "gpt2", 6)
    assert sixth == Origin(
        "openai-community/gpt2", "blocks.5.hook_resid_post", context_size=512, dataset_path="org/text"
    )
    assert origin_of_layer(config, "gpt2", 0).hook_name == "blocks.0.hook_resid_pre"
    sites = {LayerSite(6, "attention_out"): "blocks.5.hook_attn_out", LayerSite(6, "mlp_out"): "blocks.5.hook_mlp_out"}
    assert {layer: origin_of_layer(config, "gpt2", layer).hook_name for layer in sites} == sites
    assert origin_of_layer(config, "gpt2", LayerSite(6, "mlp_out")).hook_layer == sixth.hook_layer == 5
    assert origin_of_layer(config, "esm2", 3) == Origin("esm2", context_size=1024, dataset_path="org/text")
