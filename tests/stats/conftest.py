"""The devices that statistics are computed on."""

import pytest

from tests.conftest import CARD


@pytest.fixture(scope="session", params=["cpu", "cpu:0", *CARD])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU's kernels, the code for GPUs on a CPU, and a GPU if there is one."""
    return request.param
