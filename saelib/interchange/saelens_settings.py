"""Read the settings of any SAELens release, in the form that release 6 gave them."""

from pathlib import Path
from typing import Any

from saelib.errors import UserError
from saelib.interchange.fields import SAELENS
from saelib.interchange.reading import Config, read_config
from saelib.preprocessing.transform import TokenNorm

FACTOR = "finetuning_scaling_factor"
READ = {
    *("architecture", "d_in", "d_sae", "k", "normalize_activations", "reshape_activations", "apply_b_dec_to_input"),
    *("rescale_acts_by_decoder_norm", "activation_fn", "activation_fn_str", "activation_fn_kwargs", FACTOR, "metadata"),
}
"""The settings that are followed or refused here; SAELens does not use `metadata` in its computation."""
NORMALIZATIONS = {"none": "none", "layernorm": "layer_norm", "sqrt_d": "constant_norm_rescale"}
"""SAELens's name for each of our token norms."""
TRANSCODER: tuple[str, ...] = ("d_out", "hook_name_out", "hook_layer_out", "hook_head_index_out")


def read_settings(path: Path) -> tuple[Config, Config]:
    """Reads the settings as they are in the file, and as release 6 would write them, with SAELens's own defaults."""
    stored = read_config(path)
    values = {"architecture": "standard", **stored.values}
    if isinstance(averaged := values.get("normalize_activations"), bool):
        values["normalize_activations"] = "expected_average_only_in" if averaged else "none"
    if "reshape_activations" not in values and "hook_z" in str(values.get("hook_name", values.get("hook_point"))):
        values["reshape_activations"] = "hook_z"
    kind, architecture = _activation(stored), values["architecture"]
    if kind == "topk" and architecture in ("standard", "topk"):
        values |= {"architecture": "topk", "k": _k(stored)}
    elif (kind, architecture) in (("topk", "jumprelu"), ("relu", "topk")):
        raise UserError(
            f"{path}: the activation is '{kind}', and 'architecture' '{architecture}'; one of them is wrong"
        )
    return stored, Config(path, values)


def refuse_unknown(config: Config) -> None:
    """Refuses transcoders, which saelib does not have, and every unknown setting."""
    reason = "it belongs to a transcoder, which predicts something other than its input"
    config.refuse_all_of(dict.fromkeys(TRANSCODER, reason))
    config.refuse_others(READ | SAELENS | set(TRANSCODER))


def token_norm(config: Config) -> TokenNorm:
    """Gives our name for the normalization of each token."""
    theirs = config.values.get("normalize_activations")
    if theirs in ("expected_average_only_in", "covariance_whitening"):
        raise UserError(
            f"{config.path}: 'normalize_activations' is '{theirs}', whose scale lies outside this folder; fold it into "
            "the weights with SAELens first (fold_activation_norm_scaling_factor, fold_activation_whitening), then the "
            "value is 'none'"
        )
    ours = {name: ours for ours, name in NORMALIZATIONS.items()}
    return config.choice("normalize_activations", ours, default="none")


def _activation(stored: Config) -> str | None:
    """Gives the activation function; releases before 6 had two names for this setting."""
    known = {"relu": "relu", "topk": "topk"}
    named = {stored.choice(key, known) for key in ("activation_fn_str", "activation_fn") if stored.values.get(key)}
    if len(named) > 1:
        raise UserError(f"{stored.path}: 'activation_fn_str' and 'activation_fn' differ; one of the two is wrong")
    return named.pop() if named else None


def _k(stored: Config) -> Any:
    """Gives the k of a TopK; before release 6 it was an option of the activation function."""
    if stored.values.get("activation_fn_kwargs") is None:
        return stored.values.get("k")
    options = stored.section("activation_fn_kwargs")
    options.refuse_others({"k", "signed"})
    options.refuse_all_of({"signed": "it selects latents by absolute value, which our SAEs do not"})
    return options.values.get("k", stored.values.get("k"))
