"""Statistics and deaths that are computed on a device are those of the CPU."""

import numpy as np
import pytest
import torch

import saelib
from saelib.errors import UserError
from saelib.stats.compute import CENTERS

ACTS = (np.random.default_rng(0).standard_normal((900, 12)) * np.arange(1, 13) ** -0.5 + 0.4).astype(np.float32)


def test_both_are_those_of_a_cpu(device: str) -> None:
    place = "cpu:0" if device == "cpu" else device  # a name that is not "cpu": the code for GPUs runs on a CPU too
    given = torch.from_numpy(ACTS).to(device)
    wanted, found = saelib.compute_stats(ACTS), saelib.compute_stats(given, device=place)
    assert found != wanted  # another order of additions
    for name in ("gamma", "gamma_raw", "gamma_unit", "effective_rank"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-6)
    for center in CENTERS:
        np.testing.assert_allclose(found.arrays[center], wanted.arrays[center], atol=1e-6 * wanted.sigma)
    options = {"d_sae": 128, "k": 4, "seeds": [0, 1], "fitted_to": wanted}
    assert saelib.measure_init_death(given, **options, device=place) == saelib.measure_init_death(ACTS, **options)


def test_an_unknown_device_is_refused() -> None:
    for call in (
        saelib.compute_stats,
        lambda acts, device: saelib.measure_init_death(acts, d_sae=8, k=2, device=device),
    ):
        with pytest.raises(UserError, match="device 'cuda:99'"):
            call(ACTS, device="cuda:99")
