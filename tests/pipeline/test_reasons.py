"""Why a result is stale, in words; and the file that keeps what results were made from."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saelib.pipeline.reasons import MadeFrom, in_short, named, read_records, reasons, write_records


def why(old: MadeFrom, new: MadeFrom) -> list[str]:
    return reasons("old", True, new, {"old": old})


def test_settings_get_the_names_that_they_have_in_the_config() -> None:
    nested = {"parts": [{"batch_size": 4}, {"files": [{"path": "a"}]}], "seed": 0, "rates": [1, 2]}
    names = {"parts.0": "models.m.source", "parts.1": "datasets.d"}
    assert named(nested, names) == {
        "models.m.source.batch_size": 4,
        "datasets.d.files.0.path": "a",
        "seed": 0,
        "rates": [1, 2],
    }
    assert named({"k": 1, "options": {"x": {"y": 2}}}, {"": "train", "options.x": "its"}) == {"train.k": 1, "its.y": 2}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abcd"), json_values), st.dictionaries(st.sampled_from("abcd"), json_values))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_change_goes_unsaid_and_nothing_is_said_of_what_is_the_same(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    found = why(MadeFrom(named(old, {"": "train"})), MadeFrom(named(new, {"": "train"})))
    same = json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
    assert (found == ["an input changed, but no record says which"]) == same


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"train.k": 8}, {"train.k": 4}, "train.k: 8 -> 4"),
        ({"train.k": 8}, {"train.k": 8, "train.new": True}, "train.new: absent -> true"),
        ({"a": None}, {"a": "x y"}, "a: none -> x y"),
        ({"a": [0.001, 0.01]}, {"a": [0.001]}, "a: 0.001, 0.01 -> 0.001"),
        ({"contents of f": "0" * 64}, {"contents of f": "1" * 64}, "contents of f changed"),
        ({"a": "x" * 99}, {"a": ""}, f"a: {'x' * 39}… -> nothing"),
    ],
)
def test_a_setting_is_said_as_before_and_after(old: dict[str, Any], new: dict[str, Any], said: str) -> None:
    assert why(MadeFrom(old), MadeFrom(new)) == [said]


def test_code_and_upstream_are_named_a_few_at_a_time() -> None:
    code = {f"saelib.m{i}": "1" for i in range(5)}
    assert why(MadeFrom(code=code), MadeFrom(code=code | {"saelib.m1": "2"})) == ["code of saelib.m1"]
    assert why(MadeFrom(code={}), MadeFrom(code=code)) == ["code of saelib.m0, saelib.m1, saelib.m2 and 2 more modules"]
    read = {f"stats of a layer {i}": "1" for i in range(5)}
    old = MadeFrom(upstream=read | {"theory": "1"})
    assert why(old, MadeFrom(upstream=dict.fromkeys(old.upstream, "2"))) == ["upstream: stats, theory"]
    assert why(old, MadeFrom(upstream=read)) == ["left out: theory"]
    assert why(MadeFrom(), MadeFrom(upstream=read)) == ["added: stats of a layer 0 and 4 more results"]


def test_what_has_no_key_is_missing_or_damaged_and_an_unknown_key_is_said_to_be() -> None:
    assert reasons(None, False, MadeFrom(), {}) == ["missing"]
    assert reasons(None, True, MadeFrom(), {}) == ["damaged or unfinished"]
    assert reasons("", True, MadeFrom(), {}) == ["the last run ended without all results"]
    assert "made by another version of saelib" in reasons("k", True, MadeFrom(), {})[0]
    assert in_short("abcdea") == "a; b; c; and 2 more"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    code = {"saelib.a": "12"}
    records = {
        "stats of a layer 1": {"k1": MadeFrom({"ä": [1, {"b": None}]}, code, {"extract": "0"}), "k2": MadeFrom()},
        "theory": {"k4": MadeFrom({}, code, {})},
    }
    write_records(tmp_path / "keys.json", records)
    assert read_records(tmp_path / "keys.json") == records
    text = (tmp_path / "keys.json").read_text()
    assert text.count("saelib.a") == 1  # however many results share it
    for damage in (text[:-20], text.replace("k1", "k3"), "[]", ""):
        (tmp_path / "keys.json").write_text(damage)
        assert read_records(tmp_path / "keys.json") == {}
    assert read_records(tmp_path / "none.json") == {}
