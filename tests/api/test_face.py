"""What `import saelib` offers: the examples run, every kind of input gives the same, nothing heavy comes early."""

import doctest
import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saelib
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE, save_sae
from saelib.sae.model import SAE

TOKENS, D, D_SAE, K = 4_000, 32, 64, 4


@pytest.fixture(scope="module")
def acts() -> np.ndarray:
    rng = np.random.default_rng(0)
    mean = rng.standard_normal(D)
    x = rng.standard_normal((TOKENS, D)) + 4 * np.sqrt(D) * mean / np.linalg.norm(mean)
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def sae_file(tmp_path_factory: pytest.TempPathFactory, acts: np.ndarray) -> Path:
    generator = torch.Generator().manual_seed(0)
    W_enc = torch.randn(D, D_SAE, generator=generator) / D**0.5
    tensors = {"W_enc": W_enc, "W_dec": W_enc.T.clone(), "b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(D)}
    path = tmp_path_factory.mktemp("sae") / "weights.safetensors"
    center = acts.mean(0, dtype=np.float64)
    scale = (1 / acts.std(0)).astype(np.float32)
    save_sae(SavedSAE(SAE("topk", tensors, K), Preprocessing(center, scale), {}), path)
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import polars as pl

    folder = tmp_path_factory.mktemp("results")
    (folder / "tables").mkdir()
    pl.DataFrame({"model": ["a"], "layer": [1]}).write_parquet(folder / "tables" / "layers.parquet")
    pl.DataFrame({"model": ["a"], "layer": [1]}).write_parquet(folder / "tables" / "saes.parquet")
    pl.DataFrame({"model": ["a"], "d_sae": [512]}).write_parquet(folder / "tables" / "landscape.parquet")
    pl.DataFrame({"scope": ["overall"], "rho": [0.5]}).write_csv(folder / "tables" / "spearman.csv")
    return folder


@pytest.mark.parametrize("name", ["saelib", *saelib.__all__])
def test_the_examples_run(name: str, acts: np.ndarray, sae_file: Path, results: Path) -> None:
    thing = saelib if name == "saelib" else getattr(saelib, name)
    globs: Mapping[str, Any] = {"saelib": saelib, "np": np, "acts": acts, "path": sae_file, "results": results}
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(globs))
    if inspect.isfunction(thing) or thing is saelib:
        assert example.examples, f"{name} has no example"
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example).failed == 0


def test_arrays_tensors_paths_and_stacks_give_the_same(tmp_path: Path, acts: np.ndarray) -> None:
    np.save(tmp_path / "acts.npy", acts)
    expected = saelib.compute_stats(acts)
    sources: list[Any] = [torch.from_numpy(acts), tmp_path / "acts.npy", str(tmp_path / "acts.npy")]
    sources += [acts.reshape(40, 100, D), saelib.open_activations(acts), saelib.open_activations(acts).rows]
    for source in sources:
        found = saelib.compute_stats(source)
        assert found == expected
        np.testing.assert_array_equal(found.arrays["center_median"], expected.arrays["center_median"])
    bfloat16 = torch.from_numpy(acts).bfloat16()
    assert saelib.compute_stats(bfloat16) == saelib.compute_stats(bfloat16.float())


def test_an_array_elsewhere_is_read_by_slices(acts: np.ndarray) -> None:
    class Elsewhere:
        """An array that numpy cannot take whole."""

        shape, dtype = acts.shape, acts.dtype

        def __getitem__(self, which: slice) -> np.ndarray:
            assert isinstance(which, slice)
            return acts[which]

    assert saelib.compute_stats(Elsewhere()) == saelib.compute_stats(acts)  # type: ignore[arg-type]


def test_preprocessings_are_fitted_to_the_tokens_that_are_named(acts: np.ndarray) -> None:
    """Centered on tokens with the opposite mean, the rows lie twice as far from 0 as they are."""

    def dead(fitted_to: Any) -> float:
        found = saelib.measure_init_death(acts, d_sae=256, k=K, seeds=[0], fitted_to=fitted_to)
        assert found["center_median"].dead_total.mean != found["raw"].dead_total.mean
        return found["center_median"].dead_total.mean - found["raw"].dead_total.mean

    assert dead(None) < 0 < dead(-acts) == dead(saelib.compute_stats(-acts))


def test_an_sae_reads_activations_as_the_model_has_them(acts: np.ndarray, sae_file: Path) -> None:
    sae = saelib.load_sae(sae_file)
    x = acts[:50].astype(np.float64)
    z_scored = (x - acts.mean(0, dtype=np.float64)) / acts.std(0)
    W_enc, W_dec = (w.detach().double().numpy() for w in (sae.model.W_enc, sae.model.W_dec))
    hidden = z_scored @ W_enc
    bar = np.sort(hidden, axis=1)[:, -K][:, None]
    codes = np.where((hidden >= bar) & (hidden > 0), hidden, 0)
    np.testing.assert_allclose(sae.encode(acts[:50]), codes, atol=1e-4)
    expected = codes @ W_dec * acts.std(0) + acts.mean(0)
    np.testing.assert_allclose(sae.reconstruct(acts[:50]), expected, atol=1e-4)
    stacked = sae.encode(torch.from_numpy(acts[:50]).reshape(5, 10, D))
    assert isinstance(stacked, torch.Tensor)
    assert stacked.shape == (5, 10, D_SAE)
    np.testing.assert_allclose(stacked.reshape(50, D_SAE).numpy(), codes, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_an_sae_reads_every_floating_point_type_and_gives_no_gradients(
    dtype: torch.dtype, acts: np.ndarray, sae_file: Path
) -> None:
    sae = saelib.load_sae(sae_file)
    x = torch.from_numpy(acts[:12]).to(dtype).reshape(3, 4, D).requires_grad_()
    codes, x_hat = sae.encode(x), sae.reconstruct(x)
    assert (codes.shape, x_hat.shape) == ((3, 4, D_SAE), (3, 4, D))
    assert codes.dtype == x_hat.dtype == torch.float32
    assert not codes.requires_grad
    assert not x_hat.requires_grad
    rounded = x.detach().double().numpy()
    np.testing.assert_array_equal(codes.numpy(), sae.encode(rounded))
    np.testing.assert_array_equal(x_hat.numpy(), sae.reconstruct(rounded))
    assert sae.encode(rounded[0, 0]).shape == (D_SAE,)
    assert sae.encode(rounded[:0]).shape == (0, 4, D_SAE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model_on", ["cpu", "cuda"])
def test_a_tensor_comes_back_on_its_device(model_on: str, acts: np.ndarray, sae_file: Path) -> None:
    sae = saelib.load_sae(sae_file)
    sae.model.to(model_on)
    codes = sae.encode(torch.from_numpy(acts[:10]).cuda().bfloat16())
    assert codes.device.type == "cuda"
    np.testing.assert_allclose(codes.cpu(), sae.encode(torch.from_numpy(acts[:10]).bfloat16()).cpu(), atol=1e-4)


def test_an_sae_is_saved_under_its_own_ending_alone(tmp_path: Path, sae_file: Path) -> None:
    with pytest.raises(saelib.UserError, match=r"mine\.pt: the output is a \.safetensors file; name it mine\.safeten"):
        saelib.load_sae(sae_file).save(tmp_path / "mine.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_sae_goes_to_another_library_and_back(tmp_path: Path, acts: np.ndarray, sae_file: Path) -> None:
    sae = saelib.load_sae(sae_file)
    sae.export("saelens", tmp_path / "exported")
    back = saelib.load_sae(tmp_path / "exported")
    np.testing.assert_allclose(back.reconstruct(acts[:20]), sae.reconstruct(acts[:20]), atol=1e-3)
    back.save(tmp_path / "again.safetensors")
    assert saelib.evaluate_sae(tmp_path / "again.safetensors", acts) == saelib.evaluate_sae(back, acts)


def test_reprs_show_sizes_and_not_arrays(acts: np.ndarray, sae_file: Path, results: Path) -> None:
    stats = saelib.compute_stats(acts)
    death = saelib.measure_init_death(acts, d_sae=D_SAE, k=K, seeds=[0], fitted_to=stats)
    center = saelib.fit_preprocessing("center_median", stats)
    things = [
        stats,
        death,
        death["raw"],
        center,
        saelib.open_activations(acts),
        saelib.load_sae(sae_file),
        saelib.open_suite(results),
    ]
    for thing in things:
        assert len(repr(thing)) < 400
        assert "array(" not in repr(thing)
        assert "object at" not in repr(thing)
    assert repr(saelib.load_sae(sae_file).model) == f"SAE(topk, d_in={D}, d_sae={D_SAE}, k={K})"
    assert repr(death["raw"]).count("Rate(") == 3
    assert f"Rate({death['raw'].dead_total.mean:.1%}, sd 0.0% over 1 dictionaries)" in repr(death["raw"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(5), r"activations: has the shape \[5\]; should be \[tokens, d_in\]"),
        (np.zeros((3, 2), np.int64), "activations: holds int64; activations are floating point"),
        ("nowhere.npy", r"nowhere\.npy: no such file"),
    ],
)
def test_what_cannot_be_opened_is_said(source: Any, message: str) -> None:
    with pytest.raises(saelib.UserError, match=message):
        saelib.compute_stats(source)


def test_activations_of_another_width_are_refused(sae_file: Path) -> None:
    with pytest.raises(saelib.UserError, match=r"weights\.safetensors: got float64 of shape \[3, 7\]; reads"):
        saelib.load_sae(sae_file).encode(np.zeros((3, 7)))


def test_importing_is_light_and_the_names_are_known() -> None:
    code = (
        "import sys, saelib; dir(saelib); sys.exit(any(m in sys.modules for m in ('numpy', 'torch', 'polars', 'zarr')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(saelib.__all__) <= set(dir(saelib))
    with pytest.raises(AttributeError, match="it offers: "):
        _ = saelib.nothing_of_the_kind  # pyright: ignore[reportAttributeAccessIssue]
