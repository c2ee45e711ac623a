"""Commands about a suite: what it will need, and the inputs of programs that saelib does not run itself."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PROJECT = Path(__file__).parents[2]


def saelib(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-c", "from saelib.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def test_the_plan_of_the_papers_suite() -> None:
    file = PROJECT / "configs" / "paper.yaml"
    planned = json.loads(saelib("plan", "--configfile", file, "--json"))["models"]
    assert len(planned) == 19
    assert sum(model["layers"] for model in planned) == 454
    assert {"name", "layers", "tokens", "bytes", "missing"} <= set(planned[0])
    by_name = {model["name"]: model for model in planned}
    assert by_name["gpt2"]["bytes"] > 11 * 1_100_000 * 2 * 768
    assert "alphafold3-inputs" in by_name["alphafold3"]["missing"][0]
    text = saelib("plan", "--configfile", file)
    assert "19 models, 454 layers" in text
    assert "stable-diffusion-3.5-large" in text


def test_fetch_goes_on_and_lists_what_cannot_be_had(tmp_path: Path) -> None:
    models = {
        name: {
            "domain": "d",
            "dataset": "docs",
            "layers": 1,
            "source": {"family": "transformers", "weights": {"path": str(tmp_path / name)}},
        }
        for name in ("one", "two")
    }
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump({"models": models, "datasets": {"docs": {"kind": "python_docs"}}}))
    said = saelib("fetch", "--configfile", file, code=1)
    assert "2 could not be fetched" in said
    assert str(tmp_path / "one") in said
    assert str(tmp_path / "two") in said


def proteins(tmp_path: Path) -> dict[str, Any]:
    rng = random.Random(3)
    records = [f">p{i}\n{''.join(rng.choices('ACDEFGHIKLMNPQRSTVWY', k=rng.randint(20, 60)))}\n" for i in range(60)]
    (tmp_path / "some.fasta").write_text("".join(records))
    source = {"family": "alphafold3", "inputs": str(tmp_path / "in"), "outputs": str(tmp_path / "out")}
    return {
        "results": str(tmp_path / "results"),
        "models": {"af3": {"domain": "p", "dataset": "some", "layers": 0, "source": source | {"batch_size": 4}}},
        "datasets": {
            "some": {"kind": "sequences", "alphabet": "protein", "files": [{"path": str(tmp_path / "some.fasta")}]}
        },
        "extraction": {"tokens": 300, "heldout_tokens": 150},
    }


def test_the_inputs_written_for_alphafold_are_all_that_extraction_asks_for(tmp_path: Path) -> None:
    from saelib.config import Config
    from saelib.extract.stage import extract

    suite = proteins(tmp_path)
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(suite))
    assert "--save_embeddings=true" in saelib("alphafold3-inputs", "--configfile", file, "--model", "af3")
    rng = np.random.default_rng(0)
    inputs = list((tmp_path / "in").glob("*.json"))
    assert 0 < len(inputs) < 60
    for path in inputs:
        folder = tmp_path / "out" / path.stem / "seed-1_embeddings"
        folder.mkdir(parents=True)
        length = len(json.loads(path.read_text())["sequences"][0]["protein"]["sequence"])
        acts = rng.standard_normal((length, 384)).astype(np.float16)
        np.savez(folder / f"{path.stem}_seed-1_embeddings.npz", single_embeddings=acts)
    config = Config.model_validate(suite)
    extract("af3", config, {0: "key"}, {0: config.store_path("af3", 0)})
    assert (config.store_path("af3", 0) / "zarr.json").exists()
    assert "All proteins" in saelib("alphafold3-inputs", "--configfile", file, "--model", "af3")
    assert "there are: af3" in saelib("alphafold3-inputs", "--configfile", file, "--model", "nope", code=1)
