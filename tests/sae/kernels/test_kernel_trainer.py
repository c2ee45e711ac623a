"""The kernels against dense autograd and torch.optim, written out here; and what must hold of any trainer."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from saelib.config.training import Adam, AuxK, SignSGD, TrainConfig, VariantConfig
from saelib.sae.kernels.cpu import why_unsupported
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason="the kernels do not run on this processor")


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Several would spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


VARIANCE = 7.0


@dataclasses.dataclass(frozen=True)
class Size:
    d_in: int
    d_sae: int
    k: int
    tokens: int = 200


def make_sae(size: Size, seed: int = 0) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(size.d_sae, size.d_in, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    tensors = {
        "W_enc": rows.clone().T,
        "W_dec": rows.clone(),
        "b_enc": 0.1 * torch.randn(size.d_sae, generator=generator),
        "b_dec": 0.1 * torch.randn(size.d_in, generator=generator),
    }
    tensors["b_enc"][::10] -= 3  # positive in some batches only
    return SAE("topk", tensors, size.k)


def make_batches(size: Size, steps: int, mean: float = 0.5, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center = mean * torch.randn(size.d_in, generator=generator)
    return [torch.randn(size.tokens, size.d_in, generator=generator) + center for _ in range(steps)]


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class DenseTrainer:
    """Autograd over dense codes in float32, and torch.optim.Adam, or the rule by hand where torch has none."""

    def __init__(self, sae: SAE, config: TrainConfig, variant: VariantConfig, learning_rate: float) -> None:
        self.sae = SAE("topk", {name: value.clone() for name, value in sae.state_dict().items()}, sae.k)
        self.config, self.variant, self.learning_rate = config, variant, learning_rate
        self.tokens_since_fired = torch.zeros(sae.d_sae, dtype=torch.int64)
        self.tokens_since_positive = torch.zeros(sae.d_sae, dtype=torch.int64)
        self.examples = 0
        self.losses: list[float] = []
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.sae.named_parameters()}
        optimizer = variant.optimizer
        if optimizer.kind == "adam" and not optimizer.sparse:
            betas = (optimizer.beta1, optimizer.beta2)
            moved = [p for name, p in self.sae.named_parameters() if self._moves(name)]
            self.adam = torch.optim.Adam(moved, lr=learning_rate, betas=betas, eps=optimizer.epsilon)

    def _moves(self, name: str) -> bool:
        return {"none": True, "b_dec": name != "b_dec", "features": name == "b_dec"}[self.variant.frozen]

    def step(self, x: Tensor) -> None:
        sae = self.sae
        assert sae.k is not None
        hidden = sae.hidden_pre(x)
        values, indices = hidden.relu().topk(sae.k, dim=1)
        codes = torch.zeros_like(hidden).scatter(1, indices, values)
        self.examples += len(x)
        fired, positive = (codes > 0).any(0), (hidden > 0).any(0)
        self.tokens_since_fired = torch.where(fired, 0, self.tokens_since_fired + len(x))
        self.tokens_since_positive = torch.where(positive, 0, self.tokens_since_positive + len(x))
        x_hat = sae.decode(codes)
        loss = (x - x_hat).square().sum(1).mean() / VARIANCE
        dead_latents = self.variant.dead_latents
        if isinstance(dead_latents, AuxK):
            dead = self.tokens_since_fired >= self.config.dead_after_examples
            loss = loss + dead_latents.auxk_coefficient * self._auxk(hidden, dead, (x - x_hat).detach(), dead_latents.k)
        self.losses.append(loss.item())
        sae.zero_grad()
        loss.backward()
        self.norms = self._gradient_norms()
        if self.variant.project_decoder:
            along = (gradient(sae.W_dec) * sae.W_dec.data).sum(1, keepdim=True)
            gradient(sae.W_dec).sub_(along * sae.W_dec.data)
        self._apply()
        if self._moves("W_dec"):
            sae.W_dec.data /= sae.W_dec.norm(dim=1, keepdim=True)

    def _auxk(self, hidden: Tensor, dead: Tensor, residual: Tensor, k: int | None) -> Tensor:
        if not dead.any():
            return hidden.new_zeros(())
        among_dead = hidden.relu() * dead
        values, indices = among_dead.topk(min(k or self.sae.d_in // 2, int(dead.sum())), dim=1)
        fit = torch.zeros_like(hidden).scatter(1, indices, values) @ self.sae.W_dec
        spread = (residual - residual.mean(0)).square().sum()
        return (residual - fit).square().sum() / spread

    def _gradient_norms(self) -> dict[str, float]:
        squares = {
            name: gradient(p).square().sum().item() for name, p in self.sae.named_parameters() if self._moves(name)
        }
        weights = squares.get("W_enc", 0) + squares.get("W_dec", 0)
        return {"W": weights**0.5, "b_dec": squares.get("b_dec", 0) ** 0.5}

    @torch.no_grad()
    def _apply(self) -> None:
        optimizer = self.variant.optimizer
        if optimizer.kind == "adam" and not optimizer.sparse:
            self.adam.step()
            return
        touched = gradient(self.sae.b_enc) != 0
        for name, p in self.sae.named_parameters():
            if not self._moves(name):
                continue
            if optimizer.kind == "sign_sgd":
                p -= self.learning_rate * gradient(p).sign()
                continue
            mask = {"W_enc": touched[None, :], "b_enc": touched, "W_dec": touched[:, None]}.get(
                name, torch.tensor(True)
            )
            m, v = self.moments[name]
            step = len(self.losses)
            m.copy_(torch.where(mask, optimizer.beta1 * m + (1 - optimizer.beta1) * gradient(p), m))
            v.copy_(torch.where(mask, optimizer.beta2 * v + (1 - optimizer.beta2) * gradient(p) ** 2, v))
            unbiased_m, unbiased_v = m / (1 - optimizer.beta1**step), v / (1 - optimizer.beta2**step)
            p -= torch.where(mask, self.learning_rate * unbiased_m / (unbiased_v.sqrt() + optimizer.epsilon), 0)


def make_kernels(size: Size, config: TrainConfig, variant: VariantConfig, learning_rate: float, small: bool = False):
    from saelib.sae.kernels.large import KernelTrainer
    from saelib.sae.kernels.small import SmallKernelTrainer

    kind = SmallKernelTrainer if small else KernelTrainer
    return kind(make_sae(size), TrainerSettings(config, variant, learning_rate=learning_rate, variance=VARIANCE))


def loss_of(sae: SAE, x: Tensor) -> float:
    with torch.no_grad():
        return ((sae(x) - x).square().sum(1).mean() / VARIANCE).item()


AUXK = VariantConfig(dead_latents=AuxK(kind="auxk", auxk_coefficient=0.5, k=12))
VARIANTS = {
    "plain": VariantConfig(),
    "sparse_adam_alone": VariantConfig(optimizer=Adam(sparse=True)),
    "frozen_b_dec_alone": VariantConfig(frozen="b_dec"),
    "no_projection": VariantConfig(project_decoder=False),
    "auxk": AUXK,
    "auxk_default_k": VariantConfig(dead_latents=AuxK(kind="auxk")),
    "frozen_b_dec": AUXK.model_copy(update={"frozen": "b_dec"}),
    "frozen_features": VariantConfig(frozen="features"),
    "sparse_adam": AUXK.model_copy(update={"optimizer": Adam(sparse=True)}),
}
SIZES = [Size(50, 100, 5), Size(381, 1000, 16), Size(13, 33, 1), Size(13, 33, 33), Size(64, 512, 300, 61)]


@pytest.mark.parametrize("small", [False, True])
def test_latents_that_only_auxk_moved_keep_their_momentum(small: bool) -> None:
    size, steps = Size(50, 100, 5), 30
    config = TrainConfig(d_sae=size.d_sae, k=size.k, steps=steps, dead_after_examples=3 * size.tokens)
    dense, fast = DenseTrainer(make_sae(size), config, AUXK, 1e-3), make_kernels(size, config, AUXK, 1e-3, small)
    center = 4.0 * torch.randn(size.d_in, generator=torch.Generator().manual_seed(2))
    only_helped = torch.zeros(size.d_sae, dtype=torch.bool)
    for i, x in enumerate(make_batches(size, steps)):
        for trainer in (dense, fast):
            trainer.step(x + (center if i % 4 else -center))
        only_helped |= (dense.tokens_since_fired == dense.examples) & (gradient(dense.sae.b_enc) != 0)
    assert only_helped.any()
    assert dense.tokens_since_positive.any()
    start = make_sae(size).W_enc
    update = (dense.sae.W_enc - start).norm()
    assert (fast.sae.W_enc - dense.sae.W_enc).norm() <= 1e-3 * update


CASES = [
    *[(SIZES[0], name, False) for name in VARIANTS],
    *[(size, "auxk", False) for size in SIZES[1:]],
    (SIZES[1], "plain", False),
    *[(SIZES[0], name, True) for name in VARIANTS],
    *[(size, name, True) for name in ("plain", "auxk") for size in (SIZES[2], SIZES[3], Size(64, 128, 8, 1100))],
]


@pytest.mark.parametrize(
    ("size", "name", "small"),
    CASES,
    ids=[f"{s.d_in}x{s.d_sae}-k{s.k}-{name}{'-small' * small}" for s, name, small in CASES],
)
def test_fifty_steps_agree_with_dense_autograd(size: Size, name: str, small: bool) -> None:
    variant, rate, steps = VARIANTS[name], 1e-3, 50
    config = TrainConfig(d_sae=size.d_sae, k=size.k, steps=steps, dead_after_examples=3 * size.tokens)
    dense = DenseTrainer(make_sae(size), config, variant, rate)
    fast = make_kernels(size, config, variant, rate, small)
    batches = make_batches(size, steps)
    for x in batches:
        assert loss_of(fast.sae, x) == pytest.approx(loss_of(dense.sae, x), rel=1e-5)
        fast.step(x)
        dense.step(x)
        assert fast.gradient_norms() == pytest.approx(dense.norms, rel=1e-3)
        torch.testing.assert_close(fast.tokens_since_fired, dense.tokens_since_fired)
        torch.testing.assert_close(fast.tokens_since_positive, dense.tokens_since_positive)
    start = make_sae(size).state_dict()
    for key, value in dense.sae.state_dict().items():
        update = (value - start[key]).norm()
        assert (fast.sae.state_dict()[key] - value).norm() <= 1e-3 * update, key


def test_a_step_of_sign_sgd_is_the_rate_against_the_sign_of_a_gradient() -> None:
    size, rate = Size(50, 100, 5), 1e-3
    variant = VariantConfig(optimizer=SignSGD(kind="sign_sgd"))
    config = TrainConfig(d_sae=size.d_sae, k=size.k, steps=1)
    dense, fast = DenseTrainer(make_sae(size), config, variant, rate), make_kernels(size, config, variant, rate)
    (x,) = make_batches(size, 1)
    dense.step(x)
    fast.step(x)
    for name, parameter in dense.sae.named_parameters():
        sizes = gradient(parameter).abs()
        clear = sizes > 1e-4 * sizes.max()  # rounding decides the sign of the others
        assert clear.any()
        torch.testing.assert_close(fast.sae.state_dict()[name][clear], parameter.data[clear], rtol=0, atol=1e-6)
