"""Places of massive tokens, by hand."""

import numpy as np
import pytest

from saelib.diagnosis.massive import massive_tokens


def test_massive_tokens_are_ten_times_as_long_as_the_median_one() -> None:
    norms = np.array([0, 1, 1, 9.9, 1, 1, 10.1, 50], np.float32)
    positions = np.array([0, 1, 0, 1, 0, 1, 0, 0])
    found = massive_tokens(norms, positions)
    assert (found.share, found.position, found.at_position) == (0.25, 0, 1.0)
    assert found.norm_ratio == pytest.approx(50)
    assert massive_tokens(norms, None).position is None
