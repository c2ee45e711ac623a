"""Mistakes in the family of a model, or in options that it does not use, are told with what would be right."""

from typing import Any

import pytest

from tests.config.mistakes import changed, message


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((name, "transformers") for name in ("gpt2", "bert", "llama", "pythia", "gemma", "gemma3", "opt", "t5")),
        *((name, "transformers") for name in ("llama3", "Llama-2-7b", "gpt-j", "phi-2", "smollm2", "modernbert")),
        *((name, "transformers_vision") for name in ("vit", "clip", "dinov2", "dinov3", "deit", "siglip")),
    ],
)
def test_an_architecture_in_place_of_a_family_is_told_which_family_loads_it(name: str, family: str) -> None:
    text = message(changed("models.m.source.family", name))
    assert f"no such value '{name}', which is an architecture: write 'family: {family}', which loads it" in text
    assert "did you mean" not in text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("transformer", "transformers"),
        ("evo2", "evo"),
        ("esm-2", "esm2"),
        ("spliceAI", "spliceai"),
        ("array", "arrays"),
    ],
)
def test_a_mistyped_family_is_told_which_is_meant(name: str, meant: str) -> None:
    text = message(changed("models.m.source.family", name))
    assert f"no such value '{name}'; did you mean '{meant}'?" in text


def test_a_name_that_is_both_near_a_family_and_an_architecture_is_told_both() -> None:
    text = message(changed("models.m.source.family", "esm"))
    assert "write 'family: transformers', which loads it (or did you mean 'esm2' or 'esm3'?)" in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"family": "alphafold3", "inputs": "i", "outputs": "o", "dtype": "bfloat16"},
            "dtype: AlphaFold 3's program has",
        ),
        (
            {"family": "evo", "weights": {"path": "x"}, "keep_special_tokens": True},
            "keep_special_tokens: Evo reads bytes",
        ),
        (
            {"family": "module", "factory": "a:b", "prepare": "a:c", "hooks": ["x", "y", "z"], "first": 1},
            "first is the number of the first block in a pattern of hooks, but hooks is a list",
        ),
    ],
)
def test_options_that_a_family_would_not_use_are_refused(source: dict[str, Any], expected: str) -> None:
    assert f"models.m.source: {expected}" in message(changed("models.m.source", source))
