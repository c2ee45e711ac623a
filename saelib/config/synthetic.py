"""Settings of synthetic activations. All keys are single values, so that a list of values can be an axis of a grid."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from saelib.config.base import Count, Fraction, Positive, Section

NotNegative = Annotated[float, Field(ge=0)]


class SyntheticConfig(Section):
    """Sparse sums of random unit vectors, plus an offset (paper, appendix A.1.2): signal_scale * signal + offset."""

    d_in: Count = 50
    """Width of the activations."""
    n_features: Count = 100
    """Number of true features: random unit vectors."""
    active: Count = 5
    """Features present in each token, drawn uniformly without replacement. Their magnitudes are |g| + 1/2 with g
    standard normal."""
    gamma: NotNegative | None = None
    """Outlier severity ||mean|| / ||sigma|| of the raw activations, exactly: the offset also takes away the mean that
    the features have of their own. Without it, the offset is `offset_norm`; with no offset, gamma is about 0.2 at the
    default sizes. The same seed gives the same features and signal at every gamma."""
    offset_norm: NotNegative | None = None
    """Length of the offset, instead of `gamma`. The features' own mean stays, as in the paper's data. Use it to keep
    the offset and vary `signal_scale` (paper, appendix B.7)."""
    outlier_dimensions: Count = 1
    """Coordinates that share the offset equally: the first ones. 1 is the paper's; real layers often have several."""
    rotated: bool = False
    """Give the offset a random direction instead of one along coordinates. `outlier_dimensions` then has no effect. A
    rotated offset is spread over all coordinates, so Adam, which moves each one at the same speed, learns it sooner."""
    signal_scale: Positive = 1.0
    """Factor of everything but the offset. With `gamma`, the offset grows with it."""
    tails: Literal["normal", "student_t", "mixture"] = "normal"
    """Distribution of a random factor of each token's signal about its mean. `normal` has no such factor. `student_t`
    and `mixture` make the tails heavy, and leave the mean and the covariance, hence gamma, as they are."""
    degrees_of_freedom: Annotated[float, Field(gt=2)] = 5.0
    """Degrees of freedom of `student_t`. The fewer, the heavier the tails; the kurtosis is infinite up to 4."""
    wide_share: Fraction = 0.1
    """Share of the tokens from the wide component of `mixture`."""
    wide_ratio: Annotated[float, Field(ge=1)] = 3.0
    """Standard deviation of the wide component of `mixture`, in units of that of the narrow one."""
    low_rank: Annotated[int, Field(ge=0)] = 0
    """Number of random directions that hold `low_rank_share` of the variance. 0 adds none. Normally distributed values
    along them are added to the features' sum, which shrinks so that the total variance is unchanged."""
    low_rank_share: Fraction = 0.99
    """Share of the variance that the `low_rank` directions hold."""
    contaminated: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of tokens with a huge value in one direction (paper, appendix D.5). gamma and all moments describe the
    other tokens."""
    contamination_size: Positive = 30.0
    """That value, in units of the signal's ||sigma||. Its direction is the last coordinate, or a random one if
    `rotated`."""

    @model_validator(mode="after")
    def _possible(self) -> "SyntheticConfig":
        if self.gamma is not None and self.offset_norm is not None:
            raise ValueError(f"gamma = {self.gamma} and offset_norm = {self.offset_norm} exclude each other; give one")
        if self.active > self.n_features:
            raise ValueError(f"active = {self.active} is larger than n_features = {self.n_features}")
        axes = self.d_in - 1 if self.contaminated and not self.rotated else self.d_in
        if self.outlier_dimensions > axes:
            raise ValueError(
                f"outlier_dimensions = {self.outlier_dimensions}, but only {axes} of d_in = {self.d_in} coordinates "
                "can hold the offset" + (" (the last one is for contaminated tokens)" if axes < self.d_in else "")
            )
        if self.low_rank >= self.d_in:
            raise ValueError(f"low_rank = {self.low_rank} is not below d_in = {self.d_in}")
        return self


class BenchmarkDataConfig(Section):
    """The data of SynthSAEBench-16k (Chanin and Garriga-Alonso 2026, version 2), with a choice of gamma.

    Features fire at frequencies of a power law, correlate, and form trees: a child fires only with its parent, siblings
    exclude each other, and a child's magnitude follows its parent's.
    """

    edition: Literal["16k", "small"] = "16k"
    """`16k` is the published recipe: 16,384 features in 768 dimensions, of which about 34 are active. `small` has 1,024
    features in 128 dimensions and the same proportions, for runs of minutes on two cores."""
    gamma: NotNegative | None = None
    """Outlier severity ||mean|| / ||sigma|| of the raw activations, set by the offset (the bias of the recipe) along
    its random direction; nothing else changes. Without it, the published offset of length 0.5: gamma is then 0.17 for
    `16k` and 0.29 for `small`."""

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return 768 if self.edition == "16k" else 128

    @property
    def n_features(self) -> int:
        """Number of true features."""
        return 16_384 if self.edition == "16k" else 1024


class StoredDataConfig(Section):
    """A layer of a real model, from the store that stage `extract` has written."""

    store: Annotated[str, StringConstraints(min_length=1)]
    """Folder (or s3:// URL) of the store, such as results/extract/gpt2/layer_6.zarr. It must exist. Trainings read its
    training rows; results are measured on its held-out rows."""
