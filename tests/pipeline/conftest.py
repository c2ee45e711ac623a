"""A copy of the project with a miniature suite, to run and to edit."""

from pathlib import Path

import pytest

from tools.miniature import Tree, make_tree


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The miniature suite, run to its end. Not to be changed: take `edited`."""
    tree = make_tree(tmp_path_factory.mktemp("pipeline") / "finished")
    tree.run()
    return tree


@pytest.fixture
def edited(finished: Tree, tmp_path: Path) -> Tree:
    """A copy of the finished suite, to edit."""
    return finished.copy(tmp_path / "edited")
