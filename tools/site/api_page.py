"""The reference of `import saelib`: its public names, and the types of what they return."""

import saelib
from saelib import evaluation

RESULTS = (
    "saelib.diagnosis.result.Diagnosis",
    "saelib.diagnosis.result.DeadFractions",
    "saelib.diagnosis.result.Landscape",
    "saelib.stats.layer_stats.LayerStats",
    "saelib.init_death.result.InitDeath",
    "saelib.theory.closed_forms.Prediction",
    "saelib.theory.recovery.RecoverySteps",
    "saelib.preprocessing.transform.Preprocessing",
    "saelib.evaluation.result.Evaluation",
)
"""Types that the public functions return, and that nobody creates by hand."""


def api_page() -> str:
    """Gives the page's Markdown, which mkdocstrings fills from the docstrings."""
    functions = [name for name in saelib.__all__ if name[0].islower()]
    classes = [name for name in saelib.__all__ if name[0].isupper()]
    return "\n\n".join(
        [
            "# API",
            "Everything here is loaded when it is first used: `import saelib` itself loads nothing. Arrays of "
            "activations are `[tokens, d_in]`, and rates are fractions in [0, 1].",
            "## Functions",
            *(f"::: saelib.{name}" for name in functions),
            "## Classes",
            *(f"::: saelib.{name}" for name in classes),
            "## Results",
            *(f"::: {name}" for name in RESULTS),
            "## Evaluation",
            "The functions of `saelib.evaluation`, and what they return. [Evaluating SAEs](../evaluation.md) has the "
            "definitions.",
            *(f"::: saelib.evaluation.{name}" for name in evaluation.__all__),
        ]
    )
