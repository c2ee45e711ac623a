"""Codes that were added block by block come back latent by latent, and nothing else is left on disk."""

import numpy as np
import pytest
from scipy import sparse

from saelib.evaluation.codes import CodesFile
from saelib.evaluation.seen import Seen


@pytest.mark.parametrize("at_a_time", [7, 2**22])
def test_blocks_become_one_matrix(tmp_path, at_a_time):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(90, 11)).astype(np.float32) * (rng.random((90, 11)) < 0.2)
    dense[:, 4] = 0
    dense[10:20] = 0
    file = CodesFile(tmp_path / "a", 11)
    file._by_latent = lambda codes, by=file._by_latent: by(codes, at_a_time)
    for block in np.split(dense, [10, 15, 20, 61]):
        file.add(sparse.csr_array(block))
    file.finish()
    found = Seen(tmp_path).codes("a")
    np.testing.assert_array_equal(found.toarray(), dense)
    assert found.nnz == np.count_nonzero(dense)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["codes.npz"]


def test_an_sae_that_never_fires_has_an_empty_matrix(tmp_path):
    file = CodesFile(tmp_path / "a", 3)
    file.add(sparse.csr_array((5, 3), dtype=np.float32))
    file.finish()
    found = Seen(tmp_path).codes("a")
    assert (found.shape, found.nnz) == ((5, 3), 0)
