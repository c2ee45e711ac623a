"""The layout of SAEBench's result files: its groups and names, with what was measured."""

import json

from saelib.evaluation.layer_result import CELossFigures, CoreFigures
from saelib.evaluation.saebench import saebench_result, write_saebench

CORE = CoreFigures(100, 0.8, 2.0, 0.9, 0.95, 1.01, 32.0, 0.25)


def test_groups_have_saebenchs_names(tmp_path):
    path = tmp_path / "a_eval_results.json"
    write_saebench(saebench_result(CORE, "a", d_in=8, d_sae=64, k=32), path)
    found = json.loads(path.read_text())
    assert found["eval_type_id"] == "core"
    assert found["eval_result_metrics"] == {
        "reconstruction_quality": {"explained_variance": 0.8, "mse": 2.0, "cossim": 0.9},
        "shrinkage": {"l2_ratio": 0.95, "relative_reconstruction_bias": 1.01},
        "sparsity": {"l0": 32.0},
        "token_stats": {"total_tokens_eval_sparsity_variance": 100},
        "misc_metrics": {"freq_over_1_percent": 0.25},
    }
    assert found["sae_cfg_dict"] == {"d_in": 8, "d_sae": 64, "k": 32}
    assert {"eval_id", "eval_config", "datetime_epoch_millis", "eval_result_details"} <= found.keys()


def test_the_loss_is_there_if_it_was_measured():
    metrics = saebench_result(CORE, "a", CELossFigures(90, 10.0, 4.0, 3.0, 6 / 7))["eval_result_metrics"]
    assert metrics["model_performance_preservation"] == {
        "ce_loss_with_ablation": 10.0,
        "ce_loss_with_sae": 4.0,
        "ce_loss_without_sae": 3.0,
        "ce_loss_score": 6 / 7,
    }
    assert metrics["token_stats"]["total_tokens_eval_reconstruction"] == 90
