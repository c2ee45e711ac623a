"""On a device, deaths and first tokens are those of the CPU's kernels, to the last latent."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.init_death import device_trial
from saelib.init_death.device_trial import DeviceTrial
from saelib.init_death.encoder import random_encoder
from saelib.init_death.near import find_near
from saelib.init_death.trial import Trial
from saelib.preprocessing.transform import Preprocessing

D_IN, D_SAE = 24, 300


def tokens(n: int, kind: str) -> NDArray[np.float32]:
    """Tokens about a mean, some of them special."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, D_IN)) + 2 * rng.standard_normal(D_IN)
    if kind == "repeated":  # ties between tokens, and values that differ by rounding alone
        x[n // 2 :] = x[: n - n // 2] * (1 + 1e-7)
    if kind == "zeros":
        x[::7] = 0
    if kind == "massive":
        x[::50] *= 1000
    return x.astype(np.float32)


def firsts(
    x: NDArray[np.float32], centers: list[NDArray[np.float64]], k: int, w: NDArray[np.float32], device: str | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First positive and first selecting tokens under some centers, read in two blocks; None: by `Trial`."""
    base = x.mean(0, dtype=np.float64)
    deltas = np.stack([base - center for center in centers])
    preprocessings = [Preprocessing(center) for center in centers]
    trial = Trial(w, deltas, k) if device is None else DeviceTrial(w, deltas, k, device)
    for start, stop in ((0, len(x) // 3), (len(x) // 3, len(x))):
        block = x[start:stop]
        shifted = Preprocessing(base).apply(block)
        trial.add(shifted, find_near(shifted, deltas, preprocessings, block, None), start)
    return trial.first_positive, trial.first_selected


@pytest.mark.parametrize("kind", ["plain", "repeated", "zeros", "massive"])
@pytest.mark.parametrize("k", [1, 8, D_SAE - 1, D_SAE])
def test_first_tokens_are_the_cpus(kind: str, k: int, device: str) -> None:
    x, w = tokens(400, kind), random_encoder(D_IN, D_SAE, seed=0)
    centers = [np.zeros(D_IN), np.median(x, axis=0).astype(np.float64), x[7].astype(np.float64)]
    for found, wanted in zip(firsts(x, centers, k, w, device), firsts(x, centers, k, w, None), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_close_calls_are_decided_by_the_cpu_whatever_the_device_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that err by up to the bound change nothing."""
    x, w = tokens(600, "plain"), random_encoder(D_IN, D_SAE, seed=1)
    centers = [np.zeros(D_IN), x.mean(0, dtype=np.float64)]
    wanted = firsts(x, centers, 4, w, None)
    monkeypatch.setattr(device_trial, "ROUNDING", 1e-3)
    read = DeviceTrial._read
    rng = np.random.default_rng(0)

    def with_errors(self: DeviceTrial, variant: int, values, margin, *rest):
        errors = 0.9 * rng.uniform(-1, 1, tuple(values.shape)).astype(np.float32)
        return read(self, variant, values + margin * device_trial.torch.from_numpy(errors), margin, *rest)

    monkeypatch.setattr(DeviceTrial, "_read", with_errors)
    for found, expected in zip(firsts(x, centers, 4, w, "cpu"), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_few_tokens_are_left_to_the_cpu() -> None:
    x, w = tokens(4000, "plain"), random_encoder(D_IN, D_SAE, seed=0)
    base = x.mean(0, dtype=np.float64)
    trial = DeviceTrial(w, np.zeros((1, D_IN)), 8, "cpu")
    shifted = Preprocessing(base).apply(x)
    trial.add(shifted, find_near(shifted, np.zeros((1, D_IN)), [Preprocessing(base)], x, None), 0)
    assert trial.decided_on_cpu < 0.05 * len(x)


def test_a_measurement_is_the_same_on_every_device(device: str) -> None:
    from saelib.init_death.measure import measure

    x = tokens(700, "zeros")
    preprocessings = {
        "raw": Preprocessing(np.zeros(D_IN)),
        "center_mean": Preprocessing(x.mean(0, dtype=np.float64)),
        "zscore": Preprocessing(x.mean(0, dtype=np.float64), (1 / x.std(0)).astype(np.float32)),
    }
    rows = ArrayRows(x, block_rows=128)
    wanted = measure(rows, preprocessings, D_SAE, 4, seeds=[0, 1])
    name = "cpu:0" if device == "cpu" else device  # the device's code, on a CPU
    found = measure(rows, preprocessings, D_SAE, 4, seeds=[0, 1], device=name)
    assert found == wanted
