"""A key changes with everything that decides a result, and with nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from saelib.pipeline import keys


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small saelib: stage a uses b, which uses c inside a function; d stands alone; config decides nothing."""
    sources = {
        "a.py": "from saelib.b import f\nimport numpy\n",
        "b/__init__.py": "from saelib.b.inner import f\n",
        "b/inner.py": "def f():\n    '''Text.'''\n    from saelib import c\n    return c.x + 1  # why\n",
        "c.py": "x = 1\n",
        "d.py": "y = 1\n",
        "config/__init__.py": "z = 1\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(keys, "PACKAGE", tmp_path)
    keys._source.cache_clear()
    yield tmp_path
    keys._source.cache_clear()


def hash_after(package: Path, name: str, text: str) -> str:
    before = (package / name).read_text()
    (package / name).write_text(text)
    keys._source.cache_clear()
    result = keys.code_hash("saelib.a")
    (package / name).write_text(before)
    keys._source.cache_clear()
    return result


def test_closure_follows_imports_wherever_they_stand(package: Path) -> None:
    assert keys.import_closure("saelib.a") == {"saelib.a", "saelib.b", "saelib.b.inner", "saelib.c"}


@pytest.mark.parametrize(
    ("name", "text", "stale"),
    [
        ("c.py", "x = 2\n", True),
        ("b/inner.py", "def f():\n    from saelib import c\n    return c.x + 2\n", True),
        (
            "b/inner.py",
            "def f():\n    from saelib import c\n\n    # other words\n    return (c.x +\n        1)\n",
            False,
        ),
        ("c.py", '"""A docstring."""\n\nx   =   1\n', False),
        ("d.py", "y = 2\n", False),
        ("config/__init__.py", "z = 2\n", False),
    ],
)
def test_code_counts_where_it_is_used_and_words_do_not(package: Path, name: str, text: str, stale: bool) -> None:
    before = keys.code_hash("saelib.a")
    assert (hash_after(package, name, text) != before) == stale


@pytest.mark.parametrize(
    ("stage", "depends", "does_not"),
    [
        ("saelib.extract.stage", "saelib.store.write", "saelib.sae.autograd.losses"),
        ("saelib.stats.stage", "saelib.store.read", "saelib.extract.stage"),
        ("saelib.init_death.stage", "saelib.preprocessing.fit", "saelib.sae.autograd.losses"),
        ("saelib.train.stage", "saelib.sae.autograd.losses", "saelib.init_death.kernels"),
        ("saelib.train.stage", "saelib.sae.kernels.large", "saelib.train.loggers"),
        ("saelib.init_death.stage", "saelib.theory.cap_law", "saelib.theory.closed_forms"),
        ("saelib.train.measured_rule", "saelib.init_death.probes", "saelib.init_death.kernels"),
        ("saelib.report.stage", "saelib.stats.correlation", "saelib.extract.stage"),
    ],
)
def test_the_stages_depend_on_what_they_use(stage: str, depends: str, does_not: str) -> None:
    closure = keys.import_closure(stage)
    assert depends in closure
    assert does_not not in closure
    assert not any(name.startswith("saelib.config") for name in closure)


def test_mapping_order_is_nothing_and_values_in_a_list_are_ordered() -> None:
    def key(settings: object) -> str:
        return keys.make_key("stats", settings, "code")

    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert key({"a": 1, "b": 2}) != key({"a": 2, "b": 1})  # two values that swap places
    assert key({"rates": [1, 2]}) != key({"rates": [2, 1]})
    assert keys.make_key("stats", {}, "code", ["u"]) != keys.make_key("stats", {}, "code", ["v"])
    assert keys.make_key("stats", {}, "code") != keys.make_key("train", {}, "code")


def test_fingerprint_sees_edits_and_not_dates(tmp_path: Path) -> None:
    import os

    file = tmp_path / "x.bin"
    file.write_bytes(bytes(range(256)) * 1000)
    before = keys.fingerprint(str(file))
    os.utime(file, (0, 0))
    assert keys.fingerprint(str(file)) == before
    file.write_bytes(bytes(range(256)) * 999 + bytes(256))
    assert keys.fingerprint(str(file)) != before
    assert keys.fingerprint(str(tmp_path / "nothing")) == ""
    folder = keys.fingerprint(str(tmp_path))
    (tmp_path / "y.bin").write_bytes(b"")
    assert keys.fingerprint(str(tmp_path)) != folder


def test_what_using_a_folder_leaves_in_it_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The folder itself may well lie in a hidden one.
    folder = tmp_path / ".cache" / "nets"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "net.py").write_text("x = 1\n")
    before = keys.fingerprint(str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keys.fingerprint("~/.cache/nets") == before
    for trace in ("sub/__pycache__/net.cpython-311.pyc", ".git/HEAD", "sub/.net.py.swp"):
        (folder / trace).parent.mkdir(exist_ok=True)
        (folder / trace).write_text("trace")
    assert keys.fingerprint(str(folder)) == before
    (folder / "sub" / "net.py").write_text("x = 2\n")
    assert keys.fingerprint(str(folder)) != before
