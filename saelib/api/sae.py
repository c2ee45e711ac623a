"""Loads, evaluates and exports trained SAEs, ours or another library's."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from saelib.activations.arrays import to_numpy
from saelib.api.activations import Source, open_activations
from saelib.environments import explain_missing_extras
from saelib.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from saelib.evaluation.result import Evaluation
    from saelib.sae.file import SavedSAE

Library = Literal["saelens", "dictionary_learning", "sparsify"]
Array = TypeVar("Array", "NDArray[np.floating]", "Tensor")


class LoadedSAE:
    """An SAE with its preprocessing, which reads activations as they come from the model. `load_sae` makes it.

    It takes numpy arrays and torch tensors of any floating point type, [tokens, d_in] or with more dimensions before
    the last, and gives float32 of the kind that it was given, without gradients. A tensor comes back on the device that
    it was on. The weights are on `sae.model`: W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec; a model that was
    moved to another device computes there.
    """

    def __init__(self, saved: "SavedSAE", name: str) -> None:
        """Wraps an SAE that was read from a file; messages call it `name`."""
        self.saved, self.name = saved, name

    @property
    def model(self) -> Any:
        """The torch module, which reads preprocessed activations."""
        return self.saved.sae

    @property
    def preprocessing(self) -> Any:
        """The preprocessing: `apply` turns activations into the SAE's input, `restore` turns outputs back."""
        return self.saved.preprocess

    @property
    def d_in(self) -> int:
        """Width of the model's activations."""
        return self.saved.preprocess.d_in

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.saved.sae.d_sae

    @property
    def k(self) -> int | None:
        """Latents that are selected for a token; None for architectures without such a number."""
        return self.saved.sae.k

    def encode(self, x: Array) -> Array:
        """Computes the codes of activations: [..., d_in] -> [..., d_sae], >= 0 (of `abs_topk`: of either sign)."""
        import torch

        rows, shape = self._rows(x)
        with torch.no_grad():
            codes = self.model.encode(self._read(rows)).cpu().numpy()
        return _like(codes.reshape(*shape[:-1], self.d_sae), x)

    def reconstruct(self, x: Array) -> Array:
        """Encodes and decodes activations, and returns to the model's own space: [..., d_in] -> the same shape."""
        return self.reconstruct_and_encode(x)[0]

    def reconstruct_and_encode(self, x: Array) -> tuple[Array, Array]:
        """Gives the results of `reconstruct` and of `encode`, and encodes once for both."""
        import torch

        rows, shape = self._rows(x)
        with torch.no_grad():
            read = self._read(rows)
            codes = self.model.encode(read)
            x_hat = self.model.add_bypass(self.model.decode(codes), read).cpu().numpy()
        restored = self.preprocessing.restore(x_hat, rows).astype(np.float32).reshape(shape)
        return _like(restored, x), _like(codes.cpu().numpy().reshape(*shape[:-1], self.d_sae), x)

    def save(self, path: str | Path) -> None:
        """Writes one .safetensors file that `load_sae` and the command `saelib evaluate` read."""
        from saelib.interchange.registry import check_output
        from saelib.sae.file import save_sae

        check_output(Path(path))
        save_sae(self.saved, Path(path))

    def export(self, library: Library, folder: str | Path) -> None:
        """Writes a folder that another library loads, with the preprocessing folded into the weights."""
        from saelib.interchange.registry import export_sae

        export_sae(self.saved, library, Path(folder))

    def _rows(self, x: Any) -> tuple[NDArray[np.floating], tuple[int, ...]]:
        """Gives activations as rows [tokens, d_in], and the shape that they came in."""
        values = to_numpy(x)
        if values.ndim == 0 or values.shape[-1] != self.d_in or values.dtype.kind != "f":
            found = f"{values.dtype} of shape {list(values.shape)}"
            raise UserError(f"{self.name}: got {found}; reads floating point [..., {self.d_in}]")
        return values.reshape(-1, self.d_in), values.shape

    def _read(self, rows: NDArray[np.floating]) -> "Tensor":
        """Gives what the torch module reads: float32 [tokens, d_out], on its device."""
        import torch

        return torch.from_numpy(self.preprocessing.apply(rows)).to(self.model.b_dec.device)

    def __repr__(self) -> str:
        """Shows the name, the architecture and the sizes."""
        selected = f", k={self.k}" if self.k else ""
        sizes = f"d_in={self.d_in:,}, d_sae={self.d_sae:,}{selected}"
        return f"LoadedSAE({self.name!r}, {self.saved.sae.architecture}, {sizes})"


@explain_missing_extras()
def load_sae(path: str | Path, library: Library | None = None) -> LoadedSAE:
    """Loads an SAE: a file of saelib's, or one that SAELens, dictionary_learning or sparsify wrote.

    Args:
        path: `weights.safetensors` of a trained variant; another library's folder; `org/name` or `org/name@revision` on
            the Hugging Face hub; or `RELEASE::SAE_ID` of SAELens, if that is installed. `PATH::NAME` picks one of
            several SAEs.
        library: The library that wrote it; recognized by the files if None.

    Raises:
        UserError: If the file or folder is missing, damaged, or holds an SAE of a kind that saelib does not have.

    Example:
        >>> sae = saelib.load_sae(path)
        >>> sae
        LoadedSAE('weights.safetensors', topk, d_in=32, d_sae=64, k=4)
        >>> sae.encode(acts[:10]).shape, sae.reconstruct(acts[:10]).shape
        ((10, 64), (10, 32))
    """
    from saelib.interchange.collection import load_any

    return LoadedSAE(*load_any(str(path), library))


@explain_missing_extras()
def evaluate_sae(sae: LoadedSAE | str | Path, activations: Source, tokens: int | None = None) -> "Evaluation":
    """Measures an SAE's dead latents by cause, its L0 and its reconstruction of the model's activations.

    Args:
        sae: An SAE from `load_sae`, or a path for it.
        activations: Rows that the SAE was not trained on: anything that `open_activations` takes.
        tokens: Number of rows to measure on, from the first. Without it, all rows.

    Raises:
        UserError: If the widths differ, or if the rows are constant or not finite.

    Example:
        >>> found = saelib.evaluate_sae(path, acts)
        >>> 0 <= found.dead_total <= 1
        True
    """
    from saelib.evaluation.measure import measure

    loaded = sae if isinstance(sae, LoadedSAE) else load_sae(sae)
    return measure(loaded.saved, open_activations(activations).rows, tokens)


def _like(values: NDArray[np.float32], x: Any) -> Any:
    """Returns the values as the kind that `x` is, an array or a tensor."""
    if not hasattr(x, "detach"):
        return values
    import torch

    return torch.from_numpy(values).to(x.device)
