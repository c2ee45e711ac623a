"""A whole suite, run by Snakemake: masks of images and structures of proteins, from the config to the pages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertForPreTraining, Dinov2Config, Dinov2Model

from saelib.sources.antiberty import CHECKPOINT
from tests.features.test_features_browser import read, script, text
from tests.features.test_pages import script as data_of
from tests.features.test_structures import DRAWN, pdb
from tests.report.chromium import until
from tools.miniature import Tree, make_tree

pytest.importorskip("Bio.PDB", reason="needs biopython")

SIDE, PATCH, LETTERS = 112, 14, 60
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255, "do_normalize": True}


def save_images(root: Path) -> None:
    """Photographs of a light disk on dark noise, and masks that tell the two apart."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, : 2 * SIDE]
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for number in range(16):
        disk = np.hypot(x - rng.integers(40, 180), y - rng.integers(30, 80)) < rng.integers(25, 50)
        noise = rng.normal(60, 25, (*disk.shape, 3)) + 120 * disk[..., None] * rng.random(3)
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(disk.astype(np.uint8)).save(root / "masks" / f"{number}.png")


def save_proteins(root: Path) -> None:
    """Proteins, of which every second one has a structure that starts at its fourth residue."""
    rng = np.random.default_rng(1)
    (root / "structures").mkdir()
    records = []
    for number in range(40):
        letters = "".join(rng.choice(list("ACDEFGKL"), LETTERS))
        records.append(f">P{number}\n{letters}\n")
        if number % 2:
            (root / "structures" / f"P{number}.pdb").write_text(pdb(letters[3:], first=101))
    (root / "proteins.fasta").write_text("".join(records))


def save_checkpoints(root: Path) -> None:
    """A DINOv2 as transformers saves it, and an AntiBERTy in its package's format."""
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**SMALL, image_size=SIDE, patch_size=PATCH)).save_pretrained(root / "vit")
    (root / "vit" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    folder = root / "antiberty" / CHECKPOINT
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]
    (folder.parent / "vocab.txt").write_text("\n".join(vocabulary))
    config = BertConfig(**SMALL, vocab_size=len(vocabulary), max_position_embeddings=80)
    torch.save(BertForPreTraining(config).state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))


def suite(miniature: dict[str, Any]) -> dict[str, Any]:
    """The miniature suite with one layer of each of the two models."""

    def model(family: str, weights: str, dataset: str, **options: int) -> dict[str, Any]:
        source = {"family": family, "weights": {"path": weights}, **options}
        return {"domain": dataset, "dataset": dataset, "source": source, "layers": 2, "representative_layer": 2}

    proteins = {"kind": "sequences", "alphabet": "protein", "files": [{"path": "proteins.fasta"}]}
    return miniature | {
        "heldout_fraction": 0.5,
        "extraction": {"tokens": 1024, "heldout_tokens": 512},
        "datasets": {
            "pictures": {"kind": "images", "size": SIDE, "crops": 3, "files": [{"path": "images"}]},
            "proteins": proteins,
        },
        "models": {
            "vit": model("transformers_vision", "vit", "pictures"),
            "antiberty": model("antiberty", "antiberty", "proteins", max_length=80),
        },
        "train": miniature["train"] | {"variants": {"baseline": {}}, "learning_rates": [0.01]},
        "evaluation": {
            "tokens": 1024,
            "min_domains": 2,
            "labels": {"pictures": {"kind": "masks", "files": [{"path": "masks"}], "classes": {"1": "disk"}}},
            "structures": {"proteins": {"path": "structures"}},
        },
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the suite, run to its end."""
    tree: Tree = make_tree(tmp_path_factory.mktemp("whole") / "tree")
    save_images(tree.root)
    save_proteins(tree.root)
    save_checkpoints(tree.root)
    tree.config = suite(tree.config)
    done = tree.snakemake(timeout=1500)  # 14 jobs: a minute on two idle cores
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return tree.results


def test_disks_of_the_masks_are_a_concept(results: Path) -> None:
    found = pl.read_parquet(results / "evaluation/vit/layer_2/neurons/concepts.parquet")
    assert found["concept"].to_list() == ["disk"]
    assert found["f1_per_domain"][0] > 0.5  # disks are lighter than the rest, which a raw neuron shows
    _, columns = data_of(results / "features/vit/layer_2/baseline/data/list.js")
    assert columns["concepts"] == ["disk"]


def test_pages_hold_the_structures_of_proteins_that_have_one(results: Path) -> None:
    folder = results / "features/antiberty/layer_2/baseline/data/structures"
    found = [data_of(file)[1] for file in folder.iterdir()]
    assert found
    for one in found:
        assert int(one["name"].removeprefix("P").removesuffix(".pdb")) % 2
        assert one["residues"][:4] == [None, None, None, "101"]


@pytest.mark.browser
def test_the_report_leads_to_pages_that_a_browser_shows(browser: Any, results: Path) -> None:
    report = (results / "report.html").read_text()
    for model in ("vit", "antiberty"):
        assert f'href="features/{model}/layer_2/baseline/index.html"' in report
    pages = results / "features/vit/layer_2/baseline"
    _, columns = data_of(pages / "data/list.js")
    read(browser, pages, next(n for n, score in enumerate(columns["score"]) if score is not None))
    assert "disk" in text(browser, "#latent")
    until(browser, lambda window: script(window, "return [...document.images].every((one) => one.naturalWidth)"))
    pages = results / "features/antiberty/layer_2/baseline"
    read(browser, pages, latent_with_structure(pages))
    script(browser, "document.querySelector('.structure summary').click()")
    counts, _ = until(browser, lambda window: script(window, DRAWN))
    assert counts["blue"] > 0
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def latent_with_structure(pages: Path) -> int:
    """A latent of the page, one of whose examples has a structure."""
    known = {int(file.stem) for file in (pages / "data/structures").iterdir()}
    _, latents = data_of(pages / "data/latents/0.js")
    return next(n for n, one in enumerate(latents) if known & {shown[0] for shown in one["top"]})
