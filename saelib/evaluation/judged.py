"""The SAEs that a layer's evaluation compares, trained ones and baselines, and what is added up while tokens pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from saelib.config import Config
from saelib.config.sites import Layer
from saelib.errors import UserError
from saelib.evaluation.baselines import FixedDirections, random_sae
from saelib.evaluation.codes import CodesFile
from saelib.evaluation.core import CoreMeter
from saelib.evaluation.sums import squared_lengths

AT_A_TIME = 2**23
"""Pre-activations that are held at once."""


BASELINES = {"random": "random directions", "neurons": "raw neurons", "pca": "principal components"}
"""Baseline in the config -> its kind. Names of variants have no blanks, so the two cannot be confused."""


class Judged(NamedTuple):
    """An SAE to evaluate."""

    name: str
    """Folder of its results: `center_median-seed0`, or a baseline's name in the config."""
    kind: str
    """Variant of which it is one seed, or the baseline in words."""
    seed: int
    trained: bool
    directions: NDArray[np.float32]
    """[d_sae, d_in]: the decoder in the space of the model's activations."""
    k: int | None
    sae: Any
    """A `SavedSAE` or a `FixedDirections`."""


class Encoded(NamedTuple):
    """Some tokens and what an SAE makes of them."""

    acts: NDArray[np.float32]
    """[tokens, d_in]"""
    reconstructions: NDArray[np.floating]
    """[tokens, d_in]"""
    codes: Any
    """A `csr_array` [tokens, d_sae]."""
    positive: NDArray[np.bool_]
    """[d_sae]: latents with a pre-activation above 0 somewhere."""


def kinds_of(config: Config) -> dict[str, str]:
    """Finds the kind of each variant: the first variant that differs from it in the seed alone."""
    first: dict[str, str] = {}
    variants = config.train.variants.items()
    return {
        name: first.setdefault(options.model_copy(update={"seed": None}).model_dump_json(), name)
        for name, options in variants
    }


def trained_saes(config: Config, model: str, layer: Layer, device: str) -> Iterator[Judged]:
    """Loads every variant's SAE on a layer.

    Raises:
        UserError: If a variant has no SAE, because all of its learning rates diverged.
    """
    from saelib.sae.file import load_sae
    from saelib.sae.fold import fold_preprocess

    taken: set[str] = set()
    for variant, kind in kinds_of(config).items():
        options = config.train.variants[variant]
        seed = config.seed if options.seed is None else options.seed
        path = config.train_path(model, layer, variant) / "weights.safetensors"
        if not path.is_file():
            raise UserError(f"{model} layer {layer}: variant '{variant}' has no SAE ({path} is missing)")
        saved = load_sae(path)
        directions = fold_preprocess(saved).sae.W_dec.detach().numpy()
        saved.sae.to(device)
        name = f"{kind}-seed{seed}"
        name = f"{variant}-seed{seed}" if name in taken else name  # two variants may have the same options
        taken.add(name)
        yield Judged(name, kind, seed, True, directions, saved.sae.k, saved)


def baseline_saes(
    config: Config, center: NDArray[np.floating], eigenvectors: NDArray[np.floating] | None
) -> Iterator[Judged]:
    """Makes the baselines of the config, each with `train.k` latents for a token.

    Args:
        config: The suite.
        center: The geometric median of the training rows, [d_in].
        eigenvectors: Of their covariance, in columns; without them there is no baseline `pca`.
    """
    assert config.evaluation is not None
    width, k = len(center), config.train.k
    eye = np.eye(width, dtype=np.float32)
    for name in config.evaluation.baselines:
        if name == "random":
            sae = random_sae(center, config.train.d_sae, k, config.seed)
        elif name == "neurons":
            sae = FixedDirections(np.concatenate([eye, -eye]), center, min(k, 2 * width))
        elif eigenvectors is not None:
            components = eigenvectors[:, np.linalg.norm(eigenvectors, axis=0) > 0].T
            sae = FixedDirections(np.concatenate([components, -components]), center, min(k, 2 * len(components)))
        else:
            continue
        yield Judged(name, BASELINES[name], config.seed, False, sae.directions, sae.k, sae)


def encode(judged: Judged, acts: NDArray[np.float32]) -> Iterator[Encoded]:
    """Encodes activations [tokens, d_in], some tokens at a time, each once."""
    rows = max(1, AT_A_TIME // len(judged.directions))
    for start in range(0, len(acts), rows):
        x = acts[start : start + rows]
        yield _of_fixed(judged.sae, x) if isinstance(judged.sae, FixedDirections) else _of_saved(judged.sae, x)


def reconstruct(judged: Judged, acts: NDArray[np.float32]) -> NDArray[np.floating]:
    """Encodes and decodes activations: [tokens, d_in] -> the same shape."""
    parts = [part.reconstructions for part in encode(judged, acts)]
    return np.concatenate(parts) if parts else acts


def _of_fixed(sae: FixedDirections, x: NDArray[np.float32]) -> Encoded:
    codes = sparse.csr_array(sae.encode(x))
    positive = (((x - sae.center) @ sae.directions.T) > 0).any(axis=0)
    return Encoded(x, codes @ sae.directions + sae.center, codes, positive)


def _of_saved(saved: Any, x: NDArray[np.float32]) -> Encoded:
    import torch

    sae = saved.sae
    with torch.no_grad():
        read = torch.from_numpy(saved.preprocess.apply(x)).to(sae.b_dec.device)
        hidden_pre = sae.hidden_pre(read)
        positive = (sae.sizes(hidden_pre) > 0).any(0).cpu().numpy()
        dense = sae.activate(hidden_pre)
        x_hat = sae.add_bypass(sae.decode(dense), read).cpu().numpy()
    return Encoded(x, saved.preprocess.restore(x_hat, x), sparse.csr_array(dense.cpu().numpy()), positive)


@dataclass(frozen=True)
class Death:
    """Shares of latents that are dead over all tokens, by cause."""

    dead_relu: float
    """Never above 0 before the selection."""
    dead_topk_only: float
    """Above 0 somewhere, and never selected."""
    dead_total: float
    """Their sum."""


class SAEPass:
    """Adds up the core figures of one SAE while the tokens pass, and writes its codes to disk."""

    def __init__(self, judged: Judged, folder: Path, massive_norm: float) -> None:
        """Starts without tokens.

        Args:
            judged: The SAE.
            folder: Where the folder of its results is made.
            massive_norm: The length above which a token is massive.
        """
        self.judged = judged
        self._core = CoreMeter(massive_norm)
        self._codes = CodesFile(folder / judged.name, len(judged.directions))
        self._positive = np.zeros(len(judged.directions), bool)
        self._errors: list[NDArray[np.float32]] = []

    def add(self, acts: NDArray[np.float32]) -> None:
        """Adds tokens, [tokens, d_in]."""
        for part in encode(self.judged, acts):
            self._core.add(part.acts, part.reconstructions, part.codes)
            self._codes.add(part.codes)
            self._positive |= part.positive
            errors = squared_lengths(np.subtract(part.acts, part.reconstructions, dtype=np.float64))
            self._errors.append(errors.astype(np.float32))

    def finish(self) -> "PassResult":
        """Writes the codes and gives the sums."""
        self._codes.finish()
        core = self._core.metrics()
        fired = core.all.firing_rates > 0
        shares = [float(dead.mean()) for dead in (~self._positive, self._positive & ~fired, ~fired)]
        return PassResult(core, Death(*shares), np.concatenate(self._errors))


class PassResult(NamedTuple):
    """The sums of an SAE over all tokens."""

    core: Any
    """A `CoreReport`."""
    death: Death
    errors: NDArray[np.float32]
    """[tokens]: squared error of each token."""
