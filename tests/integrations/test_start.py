"""A start puts the remedy into the weights: the law is the same for each library's names, shapes and rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import saelib
from saelib.errors import UserError
from saelib.integrations import dictionary_learning, saelens, saev, sparsify
from saelib.preprocessing.transform import Preprocessing
from tests.integrations.stand_ins import (
    D_IN,
    D_SAE,
    AutoEncoder,
    Gated,
    JumpReLU,
    Matryoshka,
    Parameters,
    SAELens,
    Saev,
    SparseCoder,
    TopKTrainer,
    Transcoder,
    select,
)

STARTS: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {
    "saelens": (SAELens, saelens.start),
    "dictionary_learning": (TopKTrainer, dictionary_learning.start),
    "dictionary_learning, Matryoshka": (lambda: TopKTrainer(Matryoshka()), dictionary_learning.start),
    "sparsify": (SparseCoder, sparsify.start),
    "saev": (Saev, saev.start),
}
UNIT_ROWS = STARTS.keys() - {"saelens"}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    scales = np.geomspace(0.1, 10, D_IN)
    directions = np.linalg.qr(rng.standard_normal((D_IN, D_IN)))[0]
    return (rng.standard_normal((2000, D_IN)) * scales @ directions + 30).astype(np.float32)


def module_of(started: Any) -> Any:
    return getattr(started, "ae", started)


def decoder_of(module: Any) -> Tensor:
    return module.decoder.weight.T if hasattr(module, "decoder") else module.W_dec


@pytest.mark.parametrize("library", STARTS)
def test_centering_changes_the_biases_alone(library: str, x: np.ndarray) -> None:
    make, start = STARTS[library]
    found = saelib.fit_preprocessing("center_median", x)
    rows = torch.from_numpy(x)
    before, after = module_of(make()), module_of(start(make(), found))
    expected = before.pre(torch.from_numpy(found.apply(x)))
    torch.testing.assert_close(after.pre(rows), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(after.b_dec.detach(), torch.from_numpy(found.center).float())
    torch.testing.assert_close(decoder_of(after), decoder_of(before))


@pytest.mark.parametrize("library", STARTS)
def test_a_whitened_start_selects_what_it_would_on_whitened_rows(library: str, x: np.ndarray) -> None:
    """Whitening is V diag(1/sqrt(values)) V^T of the covariance, here by numpy's eigh."""
    make, start = STARTS[library]
    found = saelib.fit_preprocessing("pca", x)
    values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64), ddof=0))
    whiten = vectors / np.sqrt(values) @ vectors.T
    z = torch.from_numpy((x - found.center) @ whiten).float()
    before, after = module_of(make()), module_of(start(make(), found))
    expected, actual = before.pre(z).detach(), after.pre(torch.from_numpy(x)).detach()
    size = actual.norm() / expected.norm()
    torch.testing.assert_close(actual / size, expected, rtol=0, atol=5e-3)
    rows = decoder_of(before).detach().double() @ torch.from_numpy(np.linalg.inv(whiten))
    if library in UNIT_ROWS:
        assert float(size) == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-3)
        rows = rows / rows.norm(dim=1, keepdim=True)
    else:
        assert float(size) == pytest.approx(1, rel=1e-4)
        assert not after.cfg.rescale_acts_by_decoder_norm
    torch.testing.assert_close(decoder_of(after).detach().double(), rows, rtol=1e-3, atol=1e-3)


def test_norms_that_saelens_rescales_codes_by_are_folded_first(x: np.ndarray) -> None:
    """A start of rows of any norm is that of unit rows whose encoder was multiplied by the norms."""
    found = saelib.fit_preprocessing("pca", x)
    norms = torch.linspace(0.1, 3, D_SAE)
    scaled, folded = SAELens(), SAELens()
    scaled.W_dec.data *= norms[:, None]
    folded.W_enc.data *= norms
    saelens.start(scaled, found)
    saelens.start(folded, found)
    torch.testing.assert_close(scaled.W_enc, folded.W_enc)
    torch.testing.assert_close(scaled.W_dec, folded.W_dec)


def test_a_scale_for_each_dimension_goes_into_the_weights_too(x: np.ndarray) -> None:
    found = saelib.fit_preprocessing("zscore", x)
    sae = saelens.start(SAELens(), found)
    expected = SAELens().pre(torch.from_numpy(found.apply(x)))
    torch.testing.assert_close(sae.pre(torch.from_numpy(x)), expected, rtol=0, atol=1e-3)


def test_empty_directions_are_left_alone(x: np.ndarray) -> None:
    flat = x.copy()
    flat[:, 3] = 7
    found = saelib.fit_preprocessing("pca", flat)
    assert found.d_out == D_IN - 1
    sae = saelens.start(SAELens(), found)
    assert torch.count_nonzero(sae.W_enc[3].abs() > 1e-6) == 0
    assert sae.pre(torch.from_numpy(flat)).isfinite().all()


@pytest.mark.parametrize("library", STARTS)
def test_nothing_is_done_where_nothing_needs_to_be(library: str) -> None:
    make, start = STARTS[library]
    theirs, ours = module_of(make()), module_of(start(make(), Preprocessing(np.zeros(D_IN))))
    for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_older_saev_subtracts_b_dec_itself(x: np.ndarray) -> None:
    """Its SAE has no `encode`."""
    sae = saev.start(Parameters(), saelib.fit_preprocessing("center_median", x))
    assert sae.b_dec.any()
    assert not sae.b_enc.any()


def test_the_first_step_does_not_move_the_center(x: np.ndarray) -> None:
    found = saelib.fit_preprocessing("center_median", x)
    center = torch.from_numpy(found.center).float()
    trainer = dictionary_learning.start(TopKTrainer(), found)
    trainer.update(0, torch.from_numpy(x[:100]) + 50)
    torch.testing.assert_close(trainer.ae.b_dec.detach(), center)
    coder = sparsify.start(SparseCoder(), found)
    coder.b_dec.data = torch.full((D_IN,), 80.0)  # as sparsify's trainer does at its first step
    coder(torch.from_numpy(x[:100]))
    torch.testing.assert_close(coder.b_dec.detach(), center)
    coder.b_dec.data += 1  # as training may
    coder(torch.from_numpy(x[:100]))
    torch.testing.assert_close(coder.b_dec.detach(), center + 1)


@pytest.mark.parametrize(("ae", "name"), [(AutoEncoder, "bias"), (Gated, "decoder_bias")])
def test_each_name_of_a_decoder_bias_is_found(ae: Any, name: str, x: np.ndarray) -> None:
    found = saelib.fit_preprocessing("center_median", x)
    trainer = dictionary_learning.start(TopKTrainer(ae()), found)
    torch.testing.assert_close(getattr(trainer.ae, name).detach(), torch.from_numpy(found.center).float())


def test_a_coder_whose_decoder_is_not_normalized_keeps_its_norms(x: np.ndarray) -> None:
    """Then code times decoder row is exactly what whitened space would give, as in SAELens."""
    found = saelib.fit_preprocessing("pca", x)
    coder, sae = sparsify.start(SparseCoder(normalize_decoder=False), found), saelens.start(SAELens(), found)
    torch.testing.assert_close(coder.W_dec, sae.W_dec)
    torch.testing.assert_close(coder.encoder.weight.T, sae.W_enc)


@pytest.mark.parametrize(
    ("start", "sae", "message"),
    [
        (saelens.start, SAELens(apply_b_dec_to_input=False), r"apply_b_dec_to_input is False.*should be True"),
        (saelens.start, SAELens(normalize_activations="layer_norm"), r"'layer_norm'.*should be 'none'"),
        (saelens.start, Transcoder(), r"transcoder: its b_dec stands for another place"),
        (sparsify.start, SparseCoder(transcode=True), r"transcoder"),
        (dictionary_learning.start, TopKTrainer(torch.nn.Identity()), r"Identity does not subtract its decoder bias"),
        (dictionary_learning.start, TopKTrainer(JumpReLU()), r"JumpReLU does not subtract its decoder bias"),
        (saelens.start, torch.nn.Linear(D_IN, D_SAE), r"the SAE is a Linear without 'W_enc'"),
        (dictionary_learning.start, SparseCoder(), r"the trainer is a SparseCoder without 'ae'"),
    ],
)
def test_what_cannot_be_started_says_why(start: Any, sae: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(sae, Preprocessing(np.ones(D_IN)))


@pytest.mark.parametrize("library", STARTS)
def test_an_sae_is_started_once(library: str) -> None:
    make, start = STARTS[library]
    started = start(make(), Preprocessing(np.ones(D_IN)))
    with pytest.raises(UserError, match="start an SAE once, before its first step"):
        start(started, Preprocessing(np.ones(D_IN)))


@pytest.mark.parametrize("library", STARTS)
def test_what_is_no_start_says_why(library: str) -> None:
    make, start = STARTS[library]
    with pytest.raises(UserError, match=r"have 5 dimensions, but the SAE reads 24"):
        start(make(), Preprocessing(np.ones(5)))
    with pytest.raises(UserError, match=r"'layernorm' of each token"):
        start(make(), Preprocessing(np.zeros(D_IN), token_norm="layernorm"))


@pytest.mark.parametrize("library", STARTS)
def test_death_is_logged_by_cause(library: str, x: np.ndarray) -> None:
    """Against an independent count over the same rows."""
    rows = torch.from_numpy(x)
    started = STARTS[library][0]()
    module = module_of(started)
    said: list[dict[str, float]] = []
    logs = {"saelens": saelens, "dictionary_learning": dictionary_learning, "sparsify": sparsify, "saev": saev}
    death = logs[library.partition(",")[0]].log_death(started, window=1000, report=said.append)
    encode = getattr(module, "encode", module.pre)
    for batch in rows.split(250):
        encode(batch)
        with torch.no_grad():
            encode(batch + 1000)  # an evaluation, which does not count
    assert death.rows == said
    assert [row["tokens"] for row in said] == [1000, 2000]
    hidden_pre = module.pre(rows[1000:]).detach().numpy()
    positive = (hidden_pre > 0).any(axis=0)
    fired = (select(torch.from_numpy(hidden_pre), 6).numpy() > 0).any(axis=0)
    assert 0 < (~positive).mean() < (~fired).mean() < 1
    assert said[-1]["dead_relu"] == pytest.approx((~positive).mean())
    assert said[-1]["dead_topk_only"] == pytest.approx((positive & ~fired).mean())
    assert said[-1]["dead_total"] == pytest.approx((~fired).mean())


def test_without_a_selection_no_latent_is_dead_by_topk() -> None:
    ae = AutoEncoder()
    ae.encoder.bias.data[:40] = -1e6
    death = dictionary_learning.log_death(TopKTrainer(ae), window=100)
    ae.encode(torch.randn(100, D_IN, generator=torch.Generator().manual_seed(0)))
    (row,) = death.rows
    assert row["dead_relu"] == row["dead_total"] == pytest.approx(40 / D_SAE)
    assert row["dead_topk_only"] == 0


def test_each_window_is_counted_afresh() -> None:
    """Every latent fires in the first window, and the half whose bias then falls in no later one."""
    ae = AutoEncoder()
    death = dictionary_learning.log_death(TopKTrainer(ae), window=50)
    ae.encoder.bias.data[:] = 1e6
    ae.encode(torch.zeros(50, D_IN))
    ae.encoder.bias.data[: D_SAE // 2] = -1e6
    for _ in range(4):
        ae.encode(torch.zeros(25, D_IN))
    assert [row["dead_total"] for row in death.rows] == [0, 0.5, 0.5]


def test_what_cannot_be_logged_says_why() -> None:
    with pytest.raises(UserError, match="JumpReluTrainer computes its codes inside its loss"):
        dictionary_learning.log_death(TopKTrainer(JumpReLU()))
    with pytest.raises(UserError, match="window = 0: must be at least 1 token"):
        saelens.log_death(SAELens(), window=0)
