"""Preprocessings: transformations of activations before an SAE reads them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from saelib.config.base import Count, Section, UnitInterval, by_name

PreprocessingName = Literal[
    "raw",
    "center_median",
    "center_mean",
    "center_coordinate_median",
    "center_trimmed_mean",
    "layernorm",
    "ln_center",
    "rescale",
    "zscore",
    "pca",
]
"""Preprocessings without options; `saelib.preprocessing.fit` defines each."""

KEEP_COVARIANCE = {
    *("raw", "center_median", "center_mean", "center_coordinate_median", "center_trimmed_mean"),
}
"""Preprocessings after which an SAE reads activations of the model's own covariance."""
NEED_EIGENVECTORS = {"pca", "partial_pca", "active_subspace", "auto"}
"""Preprocessings that may read the eigenvectors of the covariance."""


class PlainPreprocessing(Section):
    """A preprocessing without options."""

    kind: PreprocessingName
    """Name of the preprocessing (docs/training.md says what each does)."""


class PartialWhitening(Section):
    """Partial PCA whitening: eigenvalues lambda of the covariance become lambda^(1 - alpha)."""

    kind: Literal["partial_pca"]
    alpha: UnitInterval
    """Degree of whitening, from 0 (only centers on the mean) to 1 (the same as `pca`)."""


class ActiveSubspace(Section):
    """Centers on the geometric median and draws initial directions in the leading principal subspace (Wang 2025)."""

    kind: Literal["active_subspace"]
    rank: Count | None = None
    """Dimensions of the subspace. Without it, d_in // 2."""


class AutoPreprocessing(Section):
    """Chooses the preprocessing of each layer; `sweep.json` records the choice and the reason."""

    kind: Literal["auto"]
    rule: Literal["measured", "paper"] = "measured"
    """`measured` predicts from the training rows how many latents are dead at initialization for this d_sae and k, and
    takes the least invasive of `raw`, `center_median` and `pca` that leaves few, as `saelib diagnose` does. `paper` is
    the paper's rule, which knows only the layer's gamma and effective rank."""


_Preprocessing = Annotated[
    PlainPreprocessing | PartialWhitening | ActiveSubspace | AutoPreprocessing, Field(discriminator="kind")
]
PreprocessingConfig = Annotated[
    _Preprocessing,
    BeforeValidator(by_name, _Preprocessing | PreprocessingName | Literal["active_subspace", "auto"]),
]
