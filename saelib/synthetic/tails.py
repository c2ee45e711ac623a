"""Random factors of tokens that make the tails of a distribution heavy and leave its covariance unchanged."""

import numpy as np
from numpy.typing import NDArray

from saelib.config.synthetic import SyntheticConfig


def token_factors(config: SyntheticConfig, tokens: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draws factors [tokens] whose mean square is 1; `tails` says how.

    A normal variable times the square root of nu / chi^2_nu has Student's t distribution, with variance nu / (nu - 2).
    """
    if config.tails == "student_t":
        nu = config.degrees_of_freedom
        chi_squared = 2 * rng.standard_gamma(nu / 2, tokens)
        return np.sqrt((nu - 2) / chi_squared).astype(np.float32)
    if config.tails == "mixture":
        share, ratio = config.wide_share, config.wide_ratio
        narrow = 1 / np.sqrt(1 - share + share * ratio**2)
        return np.where(rng.random(tokens) < share, ratio * narrow, narrow).astype(np.float32)
    return np.ones(tokens, np.float32)
