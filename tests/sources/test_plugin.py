"""A plug-in's answers are passed on where they fit and refused by name where they do not; edits make results stale."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from saelib.config.files import LocalFiles
from saelib.config.load import check_config
from saelib.config.sources import ModuleSource, PluginSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.pipeline.targets import wanted_targets
from saelib.sources import open_source
from saelib.sources.loading.user_code import code_versions
from saelib.sources.plugin import CheckedSource

CODE = """
from dataclasses import dataclass

import numpy as np

from saelib.sources import Activations


@dataclass
class Letters:
    options: "dict"
    device: str
    dtype: str
    n_layers: int = 2

    def d_in(self, layer):
        return 4 + layer

    def forward(self, examples, layers):
        codes = np.array([ord(letter) for example in examples for letter in example.content], float)
        rows = {layer: np.outer(codes, np.arange(4 + layer)) for layer in layers}
        return Activations(rows, [len(example.content) for example in examples])


def open_source(options, device, dtype):
    return Letters(options, device, dtype)
"""
EXAMPLES = [Example("a", "a", "abc"), Example("b", "b", "de")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "letters.py"
    path.write_text(CODE)
    return path


def opened(file: Path, **options: Any) -> Any:
    return open_source(PluginSource(family="plugin", file=LocalFiles(path=file), **options), "cpu", "bfloat16")


def test_a_file_gives_a_source(file: Path) -> None:
    source = opened(file, options={"seed": 3})
    acts = source.forward(EXAMPLES, [0, 2])
    assert acts.tokens_per_example == [3, 2]
    assert (source.n_layers, source.d_in(2)) == (2, 6)
    assert acts.layers.keys() == {0, 2}
    assert acts.layers[2].dtype == np.float32
    np.testing.assert_array_equal(acts.layers[2], np.outer(list(b"abcde"), range(6)))
    inner = source._source
    assert (inner.options, inner.device, inner.dtype) == ({"seed": 3}, "cpu", "bfloat16")
    assert not list(file.parent.glob("__pycache__"))


def test_weights_are_fetched_and_handed_over(file: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.npz").touch()
    source = opened(file, weights=LocalFiles(path=tmp_path / "weights.npz"), options={"seed": 3})
    assert source._source.options == {"seed": 3, "weights": tmp_path / "weights.npz"}
    with pytest.raises(UserError, match="no such file"):
        opened(file, weights=LocalFiles(path=tmp_path / "nothing.npz"))


def test_an_edit_is_seen_at_once(file: Path) -> None:
    assert opened(file).n_layers == 2
    file.write_text(CODE.replace("n_layers: int = 2", "n_layers: int = 7"))  # same size, perhaps the same second
    assert opened(file).n_layers == 7


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n", r"letters\.py: needs a function open_source\(options, device, dtype\)"),
        ("open_source = 3\n", r"letters\.py: needs a function open_source"),
        ("import nothing_of_the_kind\n", r"ModuleNotFoundError: .*nothing_of_the_kind.* \(.*letters\.py, line 1\)"),
        ("x = (\n", r"SyntaxError: .* \(.*letters\.py, line 1\)"),
        ("def open_source(options):\n    pass\n", r"open_source failed: TypeError: .*takes 1 positional argument"),
        ("def open_source(*_):\n    return {}[5]\n", r"open_source failed: KeyError: 5 \(.*letters\.py, line 2\)"),
        ("def open_source(*_):\n    pass\n", "open_source returns a NoneType, which has no method 'd_in'"),
        (CODE.replace("n_layers: int = 2", "n_layers: int = None"), "n_layers is None, and should be the number of"),
        (CODE.replace("def forward", "def backward"), "returns a Letters, which has no method 'forward'"),
    ],
)
def test_what_is_no_plugin_is_refused(file: Path, code: str, message: str) -> None:
    file.write_text(code)
    with pytest.raises(UserError, match=message) as caught:
        opened(file)
    assert str(caught.value).startswith(f"plugin {file}: ")


def test_only_a_python_file_is_run(tmp_path: Path, file: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        opened(tmp_path / "nothing.py")
    with pytest.raises(UserError, match=r"should be a Python file \(\.py\)"):
        opened(tmp_path)
    file.rename(tmp_path / "letters.txt")
    with pytest.raises(UserError, match=r"should be a Python file \(\.py\)"):
        opened(tmp_path / "letters.txt")


def answering(answer: Any) -> CheckedSource:
    """A plug-in of two layers of width 4 that gives this answer to everything."""
    inner = SimpleNamespace(n_layers=2, d_in=lambda layer: 4, forward=lambda examples, layers: answer)
    return CheckedSource("plugin own", inner)


def answer(counts: Any = (3, 2), **layers: Any) -> Any:
    rows = {int(name[1:]): value for name, value in layers.items()}
    return SimpleNamespace(layers=rows, tokens_per_example=counts)


ROWS = np.zeros((5, 4), np.float32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "plugin own: forward returns a NoneType, and should return saelib.sources.Activations"),
        (({1: ROWS}, [3, 2]), "forward returns a tuple"),
        (answer(5, _1=ROWS, _2=ROWS), "should return saelib.sources.Activations"),
        (answer(_1=ROWS), "plugin own layer 2: is missing; forward returns the layers 1"),
        (answer(_1=ROWS, _2=ROWS[:, :3]), r"plugin own layer 2: has shape \[5, 3\], but .* say \[5, 4\]"),
        (answer(_1=ROWS[:4], _2=ROWS), r"plugin own layer 1: has shape \[4, 4\], but .* say \[5, 4\]"),
        (answer(_1=ROWS, _2=ROWS[None]), r"plugin own layer 2: has shape \[1, 5, 4\]"),
        (answer((3, 3), _1=ROWS, _2=ROWS), r"has shape \[5, 4\], but .* say \[6, 4\]"),
        (answer((5,), _1=ROWS, _2=ROWS), r"tokens_per_example is \[5\], and should be a number for each of the 2 ex"),
        (answer((6, -1), _1=ROWS, _2=ROWS), r"tokens_per_example is \[6, -1\]"),
        (answer(_1=ROWS.astype(int), _2=ROWS), "plugin own layer 1: is an array of int64, and should be a numpy array"),
        (answer(_1=ROWS.tolist(), _2=ROWS), "plugin own layer 1: is a list, and should be a numpy array of floats"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        answering(given).forward(EXAMPLES, [1, 2])


def test_layers_that_nobody_asked_for_are_dropped_and_wide_floats_narrowed() -> None:
    acts = answering(answer(_0=None, _1=ROWS.astype(np.float64))).forward(EXAMPLES, [1])
    assert acts.layers.keys() == {1}
    assert acts.layers[1].dtype == np.float32


def test_a_layer_outside_is_not_asked_for() -> None:
    with pytest.raises(UserError, match="plugin own: has no layer 3; its layers are 0 to 2"):
        answering(None).forward(EXAMPLES, [1, 3])


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> Path:
    """A package with an entry point, as pip leaves it."""
    site = tmp_path / "site"
    info = site / "own_letters-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-letters\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[saelib.sources]\nletters = own_letters:open_source\nbroken = own_letters:nothing\n"
    )
    (info / "top_level.txt").write_text("own_letters\n")
    (info / "RECORD").write_text("own_letters.py,,\n")
    (site / "own_letters.py").write_text(CODE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "own_letters", raising=False)
    return info


def offered(name: str) -> PluginSource:
    return PluginSource(family="plugin", entry_point=name)


def test_an_installed_package_offers_a_source(installed: Path) -> None:
    acts = open_source(offered("letters")).forward(EXAMPLES, [1])
    np.testing.assert_array_equal(acts.layers[1], np.outer(list(b"abcde"), range(5)))
    with pytest.raises(UserError, match=r"no installed package has an entry point 'lettres' .*there are: .*letters"):
        open_source(offered("lettres"))
    with pytest.raises(UserError, match="plugin broken: importing 'own_letters:nothing': AttributeError"):
        open_source(offered("broken"))


def test_the_version_of_installed_code_is_known_without_importing_it(installed: Path) -> None:
    module = {"family": "module", "factory": "own_letters:make", "prepare": "json:loads", "hooks": ["block"]}
    assert code_versions(offered("letters")) == ["own-letters==1.2"]
    assert code_versions(ModuleSource(**module)) == ["own-letters==1.2"]  # json is Python's own
    assert "own_letters" not in sys.modules
    assert code_versions(offered("not-installed")) == []
    assert code_versions(ModuleSource(**module, import_from=LocalFiles(path=installed))) == []


def suite(file: Path, folder: Path) -> Any:
    docs = {"domain": "language", "dataset": "docs", "layers": [1]}
    module = {"factory": "own:make", "prepare": "own:feed", "hooks": ["block"], "import_from": {"path": str(folder)}}
    sources = {
        "plugin": {"family": "plugin", "file": {"path": str(file)}},
        "module": {"family": "module", **module},
        "other": {"family": "transformers", "weights": {"hf": "gpt2"}},
    }
    models = {name: {"source": source, **docs} for name, source in sources.items()}
    return check_config({"datasets": {"docs": {"kind": "python_docs"}}, "models": models}, "test")


def test_an_edit_of_the_code_makes_its_model_stale_and_no_other(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "own.py").write_text("x = 1\n")
    config = suite(file, folder)

    def changed() -> set[str]:
        now = {t.path: t.key for t in wanted_targets(config) if t.stage in ("extract", "stats")}
        names = {Path(path).parent.name for path, key in now.items() if before.get(path) != key}
        before.update(now)
        return names

    before: dict[str, str] = {}
    assert changed() == {"plugin", "module", "other"}
    file.write_text(CODE.replace("arange(4", "arange(5"))
    assert changed() == {"plugin"}
    (folder / "own.py").write_text("x = 2\n")
    assert changed() == {"module"}
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "own.cpython-311.pyc").write_text("left by the import")
    assert changed() == set()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"family": "plugin"}, "needs either `file` or `entry_point`"),
        ({"family": "plugin", "file": {"path": "a.py"}, "entry_point": "a"}, "needs either `file` or `entry_point`"),
        (
            {"family": "plugin", "entry_point": "a", "weights": {"path": "w"}, "options": {"weights": 1}},
            "are the same option",
        ),
        ({"family": "module", "factory": "a:b", "prepare": "a:c", "hooks": "blocks"}, r"hooks needs '\{layer\}'"),
        ({"family": "module", "factory": "a:b", "prepare": "a:c", "hooks": []}, r"hooks needs '\{layer\}'"),
        (
            {"family": "module", "factory": "a:b", "prepare": "a:c", "hooks": ["b"], "import_from": {"path": "."}},
            r"import_from: \. holds the results too; move your code to its own folder",
        ),
        ({"family": "module", "factory": "a.b", "prepare": "a:c", "hooks": ["b"]}, "factory: should be module:name"),
        ({"family": "module", "factory": "a:b", "prepare": "a:c", "hooks": 3}, "hooks: "),
    ],
)
def test_mistakes_in_the_config_are_found_before_any_work(source: dict[str, Any], message: str) -> None:
    model = {"domain": "d", "source": source, "dataset": "docs", "layers": [1]}
    with pytest.raises(UserError, match=message):
        check_config({"datasets": {"docs": {"kind": "python_docs"}}, "models": {"own": model}}, "test")
