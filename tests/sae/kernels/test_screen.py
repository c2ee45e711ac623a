"""Selecting by candidates from integers finds what float32 finds, or says that it does not know."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.sae.kernels.cpu import why_unsupported
from saelib.sae.trainer import TrainerSettings

pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason="the kernels do not run on this processor")

TOKENS, WIDTH, D_SAE, K = 100, 48, 700, 10
BLOCKS = [(0, 60), (60, TOKENS)]


def select(x: NDArray[np.float32], W_enc: NDArray[np.float32], b_enc: NDArray[np.float32]):
    """Blocks that were not decided, codes, centered batch, what was positive."""
    from saelib.sae.kernels.forward import empty_codes, encode_buffers
    from saelib.sae.kernels.gemm import padded
    from saelib.sae.kernels.integers import round_latents
    from saelib.sae.kernels.screen import IntegerEncoder, screen_batch
    from saelib.sae.kernels.threads import shared_workers

    bias = np.full(padded(len(W_enc)), -np.inf, np.float32)
    bias[: len(W_enc)] = b_enc
    codes, buffers, centered = empty_codes(len(x), K), [encode_buffers(60, len(W_enc), K)], np.zeros_like(x)
    b_dec = np.full(x.shape[1], 0.25, np.float32)
    encoder = IntegerEncoder(b_dec, round_latents(W_enc), bias)
    left = screen_batch(x, BLOCKS, encoder, W_enc, centered, codes, buffers, shared_workers(1))
    return left, codes, x.astype(np.float64) - b_dec, buffers[0].positive[: len(W_enc)]


def random_case(kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(0)
    x, W_enc, b_enc = (random.standard_normal(shape) for shape in ((TOKENS, WIDTH), (D_SAE, WIDTH), D_SAE))
    if kind == "mean":
        x += 30 * random.standard_normal(WIDTH)
    elif kind == "one large coordinate":
        x[:, 3] *= 300
    elif kind == "norms differ":
        W_enc *= np.exp(random.standard_normal((D_SAE, 1)))
    elif kind == "few positive":
        b_enc -= 18
    elif kind == "none positive":
        b_enc -= 1000
    return x.astype(np.float32), W_enc.astype(np.float32), b_enc.astype(np.float32)


@pytest.mark.parametrize(
    "kind", ["random", "mean", "one large coordinate", "norms differ", "few positive", "none positive"]
)
def test_codes_are_those_of_float64(kind: str) -> None:
    x, W_enc, b_enc = random_case(kind)
    left, codes, centered, positive = select(x, W_enc, b_enc)
    assert left == []
    hidden = centered @ W_enc.T.astype(np.float64) + b_enc
    scale = np.linalg.norm(centered, axis=1, keepdims=True) * np.linalg.norm(W_enc, axis=1).max() + 1e-30
    for token in range(TOKENS):
        chosen = codes.indices[token, : codes.counts[token]]
        best = np.sort(hidden[token][hidden[token] > 0])[::-1][:K]
        values = hidden[token, chosen]
        np.testing.assert_allclose(np.sort(values)[::-1], best, rtol=0, atol=1e-6 * scale[token, 0])
        np.testing.assert_allclose(codes.values[token, : len(chosen)], values, rtol=0, atol=1e-6 * scale[token, 0])
    assert positive[(hidden > 1e-3 * scale).any(0)].all()
    assert not positive[(hidden < -1e-3 * scale).all(0)].any()


@pytest.mark.parametrize("kind", ["latents alike", "all zero", "nan", "infinite", "overflow", "bad latent"])
def test_a_block_that_is_not_certain_is_left_to_float32(kind: str) -> None:
    x, W_enc, b_enc = random_case("random")
    if kind == "latents alike":
        W_enc[:300] = W_enc[0]
        b_enc[:300] = b_enc[0] + 0.001 * b_enc[:300]
        x[70] = 3 * W_enc[0]
    elif kind == "all zero":
        x[70], b_enc[:] = 0.25, 0
    elif kind == "bad latent":
        W_enc[5, 5] = np.nan
    else:
        x[70, 7] = {"nan": np.nan, "infinite": np.inf, "overflow": 1e30}[kind]
    left, codes, _, _ = select(x, W_enc, b_enc)
    assert BLOCKS[1] in left
    assert (BLOCKS[0] in left) == (kind == "bad latent")
    assert (codes.counts[:60] == K).all() == (BLOCKS[0] not in left)


@pytest.mark.parametrize("width", [2, 48, 768])
def test_the_bound_holds_and_is_not_idle(width: int) -> None:
    """Also for rows whose roundings all err in the same direction."""
    from saelib.sae.kernels.integers import LENGTH, error_bound

    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 200, width))
    a[0] = b[0] = (np.floor(float(LENGTH) / width**0.5) + 0.499) / float(LENGTH)
    scale_a, scale_b = (float(LENGTH) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    rounded = (np.rint(a * scale_a) * np.rint(b * scale_b)).sum(1) / (scale_a * scale_b)[:, 0]
    errors = np.abs(rounded - (a * b).sum(1)) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert errors.max() <= error_bound(width)
    assert errors.max() >= 0.05 * error_bound(width)


@pytest.mark.parametrize("alike", [0, 300])
def test_training_is_the_same_with_the_whole_product_in_float32(alike: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where some blocks cannot be decided, because many latents are alike."""
    import torch

    from saelib.config.training import TrainConfig, VariantConfig
    from saelib.sae.kernels import large as trainer
    from saelib.sae.model import SAE

    random = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(D_SAE, WIDTH, generator=random))
    rows[:alike] = torch.nn.functional.normalize(rows[0] + 1e-5 * rows[:alike])
    biases = {"b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(WIDTH)}
    sae = SAE("topk", {"W_enc": rows.T.clone(), "W_dec": rows.clone(), **biases}, K)
    monkeypatch.setattr(trainer, "integers_are_faster", lambda: True)
    trainers = []
    for selection in ("screened", "float32"):
        config = TrainConfig(d_sae=D_SAE, k=K, steps=10, selection=selection)
        trainers.append(
            trainer.KernelTrainer(sae, TrainerSettings(config, VariantConfig(), learning_rate=1e-3, variance=10.0))
        )
    x = torch.randn(300, WIDTH, generator=random)
    for _ in range(5):
        for one in trainers:
            one.step(x)
    integers, floats = (one.sae.state_dict() for one in trainers)
    for name, value in floats.items():
        start = sae.state_dict()[name]
        assert (integers[name] - value).norm() <= 1e-2 * (value - start).norm(), name
    assert (len(trainers[0]._floats) > 0) == (alike > 0)  # whether float32 was asked
