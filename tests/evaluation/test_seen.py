"""What an evaluation keeps comes back as it was written, and other files get one clear error."""

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from saelib.errors import UserError
from saelib.evaluation.seen import read_seen, write_codes, write_latents, write_seen

EXAMPLES = {
    "example": [0, 1],
    "id": ["a", "b"],
    "kind": ["text", "text"],
    "text": ["one two", "three"],
    "image": [None, None],
    "first_token": [0, 2],
    "tokens": [2, 1],
}
TOKENS = {"example": [0, 0, 1], "start": [0, 4, 0], "end": [3, 7, 5], "massive": [False, True, False]}


@pytest.fixture
def folder(tmp_path):
    write_seen(tmp_path, pl.DataFrame(EXAMPLES), pl.DataFrame(TOKENS))
    return tmp_path


def test_tables_come_back(folder):
    seen = read_seen(folder)
    assert seen.examples.to_dict(as_series=False) == EXAMPLES
    assert seen.examples.schema["first_token"] == pl.Int64
    assert seen.examples.schema["image"] == pl.Binary
    assert seen.tokens.to_dict(as_series=False) == TOKENS
    assert seen.tokens.schema["start"] == pl.Int32


def test_codes_come_back_without_zeros(folder):
    dense = np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, 0.25]], np.float32)
    rows, columns = np.nonzero(dense)
    codes = sparse.coo_array((np.r_[dense[dense > 0], 0], (np.r_[rows, 0], np.r_[columns, 0])), dense.shape)
    write_codes(folder, "baseline-seed0", codes)
    seen = read_seen(folder)
    found = seen.codes("baseline-seed0")
    assert seen.saes == ("baseline-seed0",)
    assert isinstance(found, sparse.csc_array)
    assert found.dtype == np.float32
    assert found.nnz == 3
    np.testing.assert_array_equal(found.toarray(), dense)


def test_latents_come_back(folder):
    row = {"latent": 0, "density": 0.5, "max_activation": 2.0, "state": "alive", "concept": None, "concept_f1": None}
    row |= {"twin_sae": "pca-seed1", "twin": 7, "twin_cosine": 0.75}
    write_latents(folder, "a", pl.DataFrame([row]))
    assert read_seen(folder).latents("a").to_dicts() == [row]


def test_images_have_boxes(tmp_path):
    patches = pl.DataFrame({"example": [0], "x0": [0], "y0": [0], "x1": [14], "y1": [14], "massive": [False]})
    write_seen(tmp_path, pl.DataFrame(EXAMPLES), patches)
    assert read_seen(tmp_path).tokens.columns == ["example", "x0", "y0", "x1", "y1", "massive"]


def test_errors_name_the_file(folder, tmp_path):
    with pytest.raises(UserError, match=r"no tokens\.parquet"):
        read_seen(tmp_path / "other")
    with pytest.raises(UserError, match="no such file; the SAEs here are none"):
        read_seen(folder).codes("a")
    (folder / "a").mkdir()
    (folder / "a" / "codes.npz").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match="not a readable sparse matrix"):
        read_seen(folder).codes("a")
    with pytest.raises(UserError, match="lacks the columns massive"):
        write_seen(folder, pl.DataFrame(EXAMPLES), pl.DataFrame(TOKENS).drop("massive"))
