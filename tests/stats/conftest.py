"""The devices that statistics are computed on."""

import pytest


@pytest.fixture(scope="session", params=["cpu", "cpu:0", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU's kernels, the code for GPUs on a CPU, and a GPU if there is one."""
    if request.param == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU")
    return request.param
