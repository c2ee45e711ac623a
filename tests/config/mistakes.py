"""A good suite, and what is said of it once it has a mistake."""

import copy
from typing import Any

import pytest

from saelib.config.load import check_config
from saelib.errors import UserError

GOOD: dict[str, Any] = {
    "datasets": {"docs": {"kind": "python_docs"}},
    "models": {
        "m": {
            "domain": "language",
            "source": {"family": "transformers", "weights": {"path": "/models/m"}},
            "dataset": "docs",
            "layers": "1-3",
            "representative_layer": 2,
        }
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with the value at a dotted path replaced."""
    suite = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = suite
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return suite


def message(suite: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_config(suite, "suite.yaml")
    return str(caught.value)
