"""Settings of other libraries: those that change the computation are followed or refused by name."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saelib.errors import UserError
from saelib.interchange import FORMATS, export_sae, import_sae

Change = Callable[..., Path]


@pytest.fixture
def exported(make: Any, tmp_path: Path) -> Change:
    """Writes an export (library, architecture) with settings and tensors changed; those set to None are removed."""

    def folder(library: str, architecture: str = "topk", tensors: Any = None, /, **settings: Any) -> Path:
        path = tmp_path / library
        export_sae(make(architecture, "center_mean"), library, path)
        (at,) = path.glob("*.json")
        config = json.loads(at.read_text())
        config.get("trainer", config).update(settings)
        at.write_text(json.dumps(config))
        weights = path / FORMATS[library].files[1]
        if tensors:
            held = torch.load(weights, weights_only=True) if weights.suffix == ".pt" else load_file(weights)
            held |= tensors
            torch.save(held, weights) if weights.suffix == ".pt" else save_file(held, weights)
        return path

    return folder


@pytest.mark.parametrize("library", FORMATS)
@pytest.mark.parametrize(("value", "shown"), [(2.0, "2.0"), (None, "null"), (False, "false"), ([1], r"\[1\]")])
def test_a_setting_that_nobody_knows_is_refused_by_name(library: str, value: Any, shown: str, exported: Any) -> None:
    folder = exported(library, input_gain=value)
    with pytest.raises(
        UserError, match=rf"not known here, and may change .*'input_gain' \({shown}\); take out"
    ) as caught:
        import_sae(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("library", FORMATS)
@pytest.mark.parametrize("name", ["W_skip", "b_gate", "gain"])
def test_a_tensor_that_nobody_knows_is_refused_by_name(library: str, name: str, exported: Any) -> None:
    with pytest.raises(UserError, match=f"also holds {name}; should hold exactly"):
        import_sae(exported(library, "topk", {name: torch.zeros(24)}))


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("relu", {"activation_fn_str": "tanh-relu"}, r"'activation_fn_str' is 'tanh-relu', .* can be: 'relu', 'topk'"),
        ("relu", {"activation_fn": "tanh-relu"}, "'activation_fn' is 'tanh-relu'"),
        (
            "relu",
            {"activation_fn": "relu", "activation_fn_str": "topk"},
            "'activation_fn_str' and 'activation_fn' diff",
        ),
        (
            "topk",
            {"activation_fn_str": "relu"},
            "the activation is 'relu', and 'architecture' 'topk'; one of them is w",
        ),
        ("jumprelu", {"activation_fn_str": "topk"}, "the activation is 'topk', and 'architecture' 'jumprelu'"),
        (
            "topk",
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6, "postact_fn": "identity"}},
            r"'postact_fn' \('identity'\)",
        ),
        ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6, "signed": True}}, "'signed' is true"),
        ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": [6]}, r"'activation_fn_kwargs' is \[6\]"),
        ("topk", {"normalize_activations": True}, "'expected_average_only_in', whose scale lies outside"),
        ("topk", {"normalize_activations": "batch_norm"}, "'normalize_activations' is 'batch_norm'"),
        ("topk", {"reshape_activations": "hook_q"}, r"'reshape_activations' is 'hook_q', .* can be: 'none', 'hook_z'"),
        ("relu", {"rescale_acts_by_decoder_norm": True}, "'rescale_acts_by_decoder_norm' is true, which only a 'topk'"),
        ("jumprelu", {"rescale_acts_by_decoder_norm": True}, "'rescale_acts_by_decoder_norm' is true"),
        (
            "relu",
            {"finetuning_scaling_factor": True},
            "'finetuning_scaling_factor' is true, and .* holds no such factor",
        ),
        ("relu", {"architecture": "transcoder", "d_out": 24}, "'architecture' is 'transcoder', which cannot be read"),
        ("relu", {"d_out": 24}, "'d_out' is 24: it belongs to a transcoder"),
        ("relu", {"hook_name_out": "blocks.0.hook_mlp_out"}, "'hook_name_out' is 'blocks.0.hook_mlp_out': it belongs"),
        ("relu", {"hook_layer_out": 3}, "'hook_layer_out' is 3: it belongs to a transcoder"),
        ("topk", {"architecture": "batchtopk", "topk_threshold_lr": 0.01}, "'architecture' is 'batchtopk'"),
        (
            "topk",
            {"architecture": "matching_pursuit", "residual_threshold": 0.01},
            "'architecture' is 'matching_pursui",
        ),
        ("topk", {"residual_threshold": 0.01}, r"'residual_threshold' \(0.01\)"),
        ("relu", {"d_in": None}, "'d_in' is missing; the weights have 24"),
    ],
)
def test_saelens_settings_that_we_cannot_follow(architecture: str, settings: Any, message: str, exported: Any) -> None:
    with pytest.raises(UserError, match=message):
        import_sae(exported("saelens", architecture, **settings))


MODEL_2024: dict[str, Any] = json.loads("""
    {"model_name": "gpt2-small", "hook_point": "blocks.0.hook_resid_pre", "hook_point_layer": 0,
    "hook_point_head_index": null, "dataset_path": "Skylion007/openwebtext", "is_dataset_tokenized": false,
    "context_size": 128, "use_cached_activations": false, "cached_activations_path": null, "prepend_bos": true,
    "n_batches_in_buffer": 128, "total_training_tokens": 300000000, "store_batch_size": 32, "device": "mps", "seed":
    42, "dtype": "torch.float32", "b_dec_init_method": "geometric_median", "expansion_factor": 32,
    "from_pretrained_path": null, "l1_coefficient": 8e-05, "lr": 0.0004, "lr_scheduler_name": null,
    "lr_warm_up_steps": 5000, "train_batch_size": 4096, "use_ghost_grads": false, "feature_sampling_window": 1000,
    "feature_sampling_method": null, "resample_batches": 1028, "feature_reinit_scale": 0.2, "n_checkpoints": 10,
    "dead_feature_window": 5000, "dead_feature_estimation_method": "no_fire", "dead_feature_threshold": 1e-08,
    "log_to_wandb": true, "wandb_project": "p", "wandb_entity": null, "wandb_log_frequency": 100, "checkpoint_path":
    "checkpoints/1", "tokens_per_buffer": 67108864, "run_name": "r", "neuronpedia_id": "n",
    "sae_lens_training_version": null, "model_from_pretrained_kwargs": {"center_writing_weights": true},
    "normalize_activations": "none", "finetuning_scaling_factor": false}
""")
"""The first releases wrote all settings of the training next to an SAE."""
MODEL_2025: dict[str, Any] = json.loads("""
    {"model_name": "gemma", "hook_name": "blocks.0.hook_mlp_out", "hook_layer": 0, "hook_head_index": null,
    "dataset_trust_remote_code": true, "context_size": 1024, "prepend_bos": true, "seqpos_slice": [null],
    "apply_b_dec_to_input": true, "finetuning_scaling_factor": null, "normalize_activations": null, "noise_scale":
    0.0, "lp_norm": 1, "decoder_heuristic_init_norm": 0.1, "mse_loss_normalization": null, "device": "cuda",
    "dtype": "bfloat16", "neuronpedia_id": null, "normalize_sae_decoder": false}
""")
MODEL_6: dict[str, Any] = json.loads("""
    {"decoder_init_norm": 0.1, "l0_coefficient": 5.0, "jumprelu_bandwidth": 0.05, "pre_act_loss_coefficient": null,
    "aux_loss_coefficient": 1.0, "use_sparse_activations": false, "target_l0": null, "matryoshka_widths": [8, 64],
    "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.0.hook_resid_post", "anything": [1, 2]}}
""")


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("relu", MODEL_2024),
        ("relu", {**MODEL_2025, "activation_fn_str": "relu", "activation_fn_kwargs": {}}),
        ("topk", {**MODEL_2025, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6, "signed": False}}),
        ("topk", {**MODEL_2025, "architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": {"k": 6}}),
        ("jumprelu", {**MODEL_2025, "activation_fn_str": "relu", "jumprelu_init_threshold": 0.001}),
        ("relu", MODEL_6),
        ("topk", MODEL_6),
        ("jumprelu", MODEL_6),
    ],
)
def test_saelens_settings_of_all_ages_that_change_nothing(
    architecture: str, settings: Any, exported: Any, make: Any, run: Any, rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        back = import_sae(exported("saelens", architecture, **settings))
    assert not caplog.text
    for mine, theirs in zip(run(make(architecture, "center_mean"), rows), run(back, rows), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
@pytest.mark.parametrize("wanted", [True, False, None])
@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
def test_a_scaling_factor_of_ones_changes_nothing(
    name: str, wanted: bool | None, architecture: str, exported: Any, make: Any, run: Any, rows: Any
) -> None:
    tensors = {name: torch.ones(64)}
    back = import_sae(exported("saelens", architecture, tensors, finetuning_scaling_factor=wanted))
    for mine, theirs in zip(run(make(architecture, "center_mean"), rows), run(back, rows), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
def test_a_scaling_factor_multiplies_the_codes_before_they_are_decoded(
    name: str, architecture: str, exported: Any, run: Any, rows: Any
) -> None:
    factor = torch.linspace(0.5, 2, 64)
    codes, _ = run(import_sae(exported("saelens", architecture)), rows)
    back = import_sae(exported("saelens", architecture, {name: factor}, finetuning_scaling_factor=True))
    weights = load_file(exported("saelens", architecture) / "sae_weights.safetensors")
    scaled_codes, x_hat = run(back, rows)
    np.testing.assert_array_equal(scaled_codes, codes)
    wanted = codes * factor.numpy() @ weights["W_dec"].double().numpy() + weights["b_dec"].double().numpy()
    np.testing.assert_allclose(x_hat, wanted, rtol=0, atol=5e-5)


@pytest.mark.parametrize("wanted", [False, None])
def test_a_scaling_factor_that_nothing_asks_for_is_refused_with_what_to_do(wanted: bool | None, exported: Any) -> None:
    tensors = {"scaling_factor": torch.full((64,), 2.0)}
    with pytest.raises(
        UserError, match=r"scaling_factor is not 1 everywhere, .*set it to true to .*or take the tensor"
    ):
        import_sae(exported("saelens", "relu", tensors, finetuning_scaling_factor=wanted))
    with pytest.raises(UserError, match=r"scaling_factor is \[63\]; should be d_sae, here \[64\]"):
        import_sae(
            exported("saelens", "relu", {"scaling_factor": torch.full((63,), 2.0)}, finetuning_scaling_factor=True)
        )


@pytest.mark.parametrize(
    "settings",
    [{"reshape_activations": "hook_z"}, {"reshape_activations": None, "hook_name": "blocks.3.attn.hook_z"}],
)
def test_an_sae_of_attention_heads_says_which_rows_it_reads(
    settings: Any, exported: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = exported("saelens", **settings)
    config = json.loads((folder / "cfg.json").read_text())
    kept = {key: value for key, value in config.items() if (key, value) != ("reshape_activations", None)}
    (folder / "cfg.json").write_text(json.dumps(kept))
    with caplog.at_level(logging.WARNING):
        import_sae(folder)
    assert "attention heads of a layer (hook_z)" in caplog.text


@pytest.mark.parametrize("architecture", ["jumprelu", "batch_topk"])
def test_a_negative_threshold_lets_nothing_below_zero_through(
    architecture: str, exported: Any, run: Any, rows: Any
) -> None:
    """A ReLU comes first, in their code and in ours."""
    thresholds = -torch.linspace(0.1, 5, 64)
    codes, _ = run(import_sae(exported("saelens", architecture, {"threshold": thresholds})), rows)
    relu, _ = run(import_sae(exported("saelens", architecture, {"threshold": torch.zeros(64)})), rows)
    assert (codes == relu).all()
    assert (codes > 0).any()


def test_a_batch_topk_threshold_that_was_never_measured_is_used_and_said(
    exported: Any, make: Any, run: Any, rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        import_sae(exported("dictionary_learning", "batch_topk"))
        assert not caplog.text
        back = import_sae(exported("dictionary_learning", "batch_topk", {"threshold": torch.tensor(-1.0)}))
    assert "its threshold is -1: training stopped before it was measured" in caplog.text
    assert "l0 is that of a ReLU, and not k" in caplog.text
    codes, _ = run(back, rows)
    saved = make("batch_topk", "center_mean")
    hidden_pre = saved.sae.hidden_pre(torch.from_numpy(saved.preprocess.apply(rows))).detach().numpy()
    np.testing.assert_allclose(codes, np.maximum(hidden_pre, 0), rtol=0, atol=5e-5)
    assert (codes > 0).sum(1).mean() > 2 * saved.sae.k


DICTIONARY: dict[str, Any] = json.loads("""
    {"trainer_class": "TopKTrainer", "lr": 0.0001, "steps": 10, "auxk_alpha": 0.03125, "warmup_steps": 1, "seed": 0,
    "decay_start": null, "threshold_beta": 0.999, "threshold_start_step": 1000, "device": "cuda", "top_k_aux": 12,
    "layer": 3, "lm_name": "toy", "wandb_name": "w", "submodule_name": "resid_post_layer_3", "l1_penalty": 0.1,
    "sparsity_warmup_steps": 2000, "resample_steps": null, "p_start": 1, "p_end": 0.2, "bandwidth": 0.001,
    "group_fractions": [0.5, 0.5], "group_weights": [0.5, 0.5], "group_sizes": [32, 32], "target_l0": 20}
""")


@pytest.mark.parametrize("buffer", [None, {"d_submodule": 24, "io": "out", "n_ctxs": 3000, "ctx_len": 128}])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "relu", "jumprelu"])
def test_settings_of_a_training_of_dictionary_learning_change_nothing(
    architecture: str, buffer: Any, exported: Any, run: Any, rows: Any
) -> None:
    wanted = run(import_sae(exported("dictionary_learning", architecture)), rows)
    folder = exported("dictionary_learning", architecture, **DICTIONARY)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | ({"buffer": buffer} if buffer else {})))
    for mine, theirs in zip(wanted, run(import_sae(folder), rows), strict=True):
        np.testing.assert_array_equal(theirs, mine)


@pytest.mark.parametrize(
    ("outside", "message"),
    [
        ({"buffer": {"io": "in_and_out"}}, "'io' of 'buffer' is 'in_and_out': this is a transcoder"),
        ({"norm_factor": 3.0}, r"'norm_factor' \(3.0\)"),
        ({"buffer": [1]}, r"'buffer' is \[1\]; should be an object of named values"),
    ],
)
def test_what_dictionary_learning_says_beside_its_trainer(outside: Any, message: str, exported: Any) -> None:
    folder = exported("dictionary_learning")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | outside))
    with pytest.raises(UserError, match=message):
        import_sae(folder)


def test_a_backup_of_a_training_is_no_dictionary(exported: Any) -> None:
    """Its weights are in `ae`, and their biases are not scaled back to the activations."""
    folder = exported("dictionary_learning")
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({"step": 5, "ae": tensors, "optimizer": {}, "norm_factor": 3.0}, folder / "ae.pt")
    with pytest.raises(
        UserError, match=r"plain tensors, and nothing else \(step, ae, optimizer, norm_factor are someth"
    ):
        import_sae(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"signed": True}, "'signed' is true: it selects latents by absolute value"),
        ({"batch_topk": False}, r"'batch_topk' \(false\)"),
        ({"input_unit_norm": True}, r"'input_unit_norm' \(true\)"),
        ({"num_latents": 0, "expansion_factor": 3}, "'expansion_factor' is 3; the weights have 2"),
        ({"activation": "batchtopk"}, "'activation' is 'batchtopk'"),
    ],
)
def test_sparsify_settings_that_we_cannot_follow(settings: Any, message: str, exported: Any) -> None:
    with pytest.raises(UserError, match=message):
        import_sae(exported("sparsify", **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"expansion_factor": 2, "normalize_decoder": True, "k": 6, "signed": False},
        {"expansion_factor": 32, "normalize_decoder": True, "num_latents": 64, "k": 6, "multi_topk": True},
        {"activation": "topk", "num_latents": 64, "k": 6, "skip_connection": False, "transcode": False},
    ],
)
def test_sparsify_settings_of_all_ages(settings: Any, exported: Any, run: Any, rows: Any) -> None:
    folder = exported("sparsify")
    wanted = run(import_sae(folder), rows)
    (folder / "cfg.json").write_text(json.dumps({**settings, "d_in": 24}))
    for mine, theirs in zip(wanted, run(import_sae(folder), rows), strict=True):
        np.testing.assert_array_equal(theirs, mine)


def test_an_early_transcoder_of_sparsify_is_told_by_its_run(exported: Any) -> None:
    """Only the run's settings, one folder up, call it one. That folder may hold other files of the same name."""
    folder = exported("sparsify")
    run = folder.parent / "config.json"
    (folder / "cfg.json").write_text(json.dumps({"expansion_factor": 32, "num_latents": 64, "k": 6, "d_in": 24}))
    for text in ("not JSON", "[]", '{"transcode": false}', '{"model_type": "gpt2"}'):
        run.write_text(text)
        assert import_sae(folder).sae.k == 6
    run.write_text('{"sae": {}, "transcode": true}')
    with pytest.raises(
        UserError, match=r"config.json: 'transcode' is true: an SAE of this run predicts something other"
    ):
        import_sae(folder)
    export = exported("sparsify")
    assert import_sae(export).sae.k == 6, "an export that says it is no transcoder is believed"
