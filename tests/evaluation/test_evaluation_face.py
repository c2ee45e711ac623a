"""The names of `saelib.evaluation`: the examples run, and nothing heavy is loaded before it is used."""

import doctest
import inspect
import subprocess
import sys

import numpy as np
import pytest

from saelib import evaluation


@pytest.mark.parametrize("name", ["saelib.evaluation", *evaluation.__all__])
def test_the_examples_run(name: str) -> None:
    thing = evaluation if name == "saelib.evaluation" else getattr(evaluation, name)
    found = doctest.DocTestFinder(recurse=False).find(thing, name, globs={"evaluation": evaluation, "np": np})
    assert found[0].examples or not inspect.isfunction(thing), f"{name} has no example"
    for example in found:
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example).failed == 0


def test_the_face_loads_only_what_is_used() -> None:
    code = (
        "import sys, saelib; saelib.evaluation; before = 'numpy' in sys.modules; saelib.evaluation.mmcs\n"
        "print(before, [m for m in ('torch', 'polars', 'numba', 'Bio', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"
    assert set(evaluation.__all__) <= set(dir(evaluation))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'mcs'; it offers: .*mmcs"):
        evaluation.mcs  # noqa: B018
