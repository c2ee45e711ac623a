"""`saelib diagnose` as a person calls it: on a file, on a model's layers, with mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from saelib.cli.main import app
from saelib.diagnosis.from_model import ModelQuestion, model_rows
from saelib.errors import UserError

WORDS = "the of a is and to in that it or be as for are"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["diagnose", *map(str, arguments)])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("acts") / "acts.npy"
    np.save(path, (np.random.default_rng(0).standard_normal((2000, 24)) + 2).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(rng.choice(WORDS.split(), 50)))
    return folder


def test_a_screen_with_verdict_table_and_lines_to_paste(file: Path) -> None:
    text = run(file, "--d-sae", 256, "--k", 8)
    assert "latents will be born dead" in text.splitlines()[0]
    assert "median-centered <" in text
    assert f"saelib.diagnose('{file}', d_sae=256, k=8)" in text
    assert max(map(len, text.splitlines())) <= max(100, len(str(file)) + 60)


def test_json_and_page(file: Path, tmp_path: Path) -> None:
    values = json.loads(run(file, "--d-sae", 256, "--k", 8, "--json", "--html", tmp_path / "page.html"))
    assert values["name"] == str(file)
    assert values["recommendation"] == "mean_center"
    assert "saelib-card" in (tmp_path / "page.html").read_text()


def test_several_layers_of_a_model_in_one_pass(tiny_gpt2: Path, corpus: Path) -> None:
    options = ("--model", tiny_gpt2, "--layers", "1-2", "--text", corpus, "--d-sae", 64, "--k", 4, "--tokens", 1000)
    options += ("--max-length", 64)
    found = json.loads(run(*options, "--json"))
    assert [one["name"] for one in found] == [f"{tiny_gpt2.name} layer {layer}" for layer in (1, 2)]
    assert all(one["tokens"] == 1000 and one["d_in"] == 16 for one in found)
    assert "recommendation" in run(*options)


def test_sites_of_a_layer_in_one_pass(tiny_gpt2: Path, corpus: Path) -> None:
    options = ("--model", tiny_gpt2, "--layer", 2, "--text", corpus, "--d-sae", 64, "--k", 4, "--tokens", 1000)
    found = json.loads(run(*options, "--max-length", 64, "--site", "residual, mlp_out", "--json"))
    assert [one["name"] for one in found] == [f"{tiny_gpt2.name} layer 2{site}" for site in ("", " mlp_out")]
    assert found[0]["gamma"] != found[1]["gamma"]


def test_tokens_of_a_model_know_their_place_in_the_text(tiny_gpt2: Path, corpus: Path) -> None:
    question = ModelQuestion(str(tiny_gpt2), "2", text=corpus, max_length=64)
    rows = model_rows(question, 10**6)[2]
    lengths = np.diff(np.r_[np.flatnonzero(rows.positions == 0), rows.shape[0]])
    assert set(lengths) == {50}  # words in each text
    assert rows.positions.max() == 49


def test_a_model_runs_on_the_device(tiny_gpt2: Path, corpus: Path, device: str) -> None:
    asked = [ModelQuestion(str(tiny_gpt2), "2", corpus, max_length=64, device=on) for on in (device, "cpu")]
    found, wanted = (model_rows(question, 100)[2] for question in asked)
    np.testing.assert_allclose(found.block(0, 100), wanted.block(0, 100), rtol=1e-4, atol=1e-4)


def test_a_model_of_the_suite_brings_its_data(tiny_gpt2: Path, corpus: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"""
datasets: {{words: {{kind: text, files: [{{path: {corpus}}}]}}}}
models:
  mine:
    source: {{family: transformers, weights: {{path: {tiny_gpt2}}}, max_length: 64}}
    domain: language
    dataset: words
    layers: 1
""")
    found = json.loads(
        run("--model", "mine", "--layer", 3, "--configfile", suite, "--d-sae", 64, "--k", 4, "--tokens", 500, "--json")
    )
    assert (found["name"], found["tokens"]) == ("mine layer 3", 500)
    with pytest.raises(UserError, match=r"--family: .* says how mine is loaded"):
        run("--model", "mine", "--layer", 3, "--configfile", suite, "--family", "transformers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name activations, or a model by --model"),
        (("FILE", "--model", "gpt2"), "one of the two"),
        (("FILE", "--layer", 3), "--layer: goes with --model"),
        (("FILE", "--max-length", 9, "--family", "esm2"), "--family, --max-length: goes with --model"),
        (("FILE", "--site", "mlp_out"), "--site: goes with --model"),
        (("--model", "GPT2", "--layer", 3, "--site", "mlp", "--text", "CORPUS"), "did you mean 'mlp_out'"),
        (("--model", "gpt2"), "--model needs --layer"),
        (("--model", "gpt2", "--layer", 3), "name the data too"),
        (("--model", "gpt2", "--layer", 3, "--text", "missing.txt"), "missing.txt: no such file or folder"),
        (("--model", "gpt2", "--layer", 3, "--text", "FILE", "--fasta", "FILE"), "name one of them"),
        (("--model", "GPT2", "--layer", 9, "--text", "CORPUS"), "last is 3"),
        (("FILE", "--d-sae", 8, "--k", 9), "k must lie between 1 and d_sae"),
        (("missing.npy",), "missing.npy"),
        (("FILE", "--device", "gpu"), "device 'gpu': should be auto, cpu, cuda"),
        (("FILE", "--device", "cuda:99"), "device 'cuda:99': not available here"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: tuple[object, ...], message: str, file: Path, corpus: Path, tiny_gpt2: Path
) -> None:
    known = {"FILE": file, "CORPUS": corpus, "GPT2": tiny_gpt2}
    with pytest.raises(UserError, match=message):
        run(*(known.get(str(one), one) for one in arguments))
