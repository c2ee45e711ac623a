"""Structures belong to the sequences that they are named by, residue by residue, and pages show activations on them."""

import base64
import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from benchmarks.peers import python_of
from saelib import UserError
from saelib.config.load import check_config
from saelib.evaluation.seen import Seen, read_seen, write_codes, write_latents, write_seen
from saelib.features.index import Names
from saelib.features.pages import write_pages
from saelib.features.structures import as_record, find_structures, flattened, read_structure
from saelib.pipeline.targets import wanted_targets
from tests.cli.test_cli import saelib
from tests.features.conftest import latents_table
from tests.report.chromium import open_page, until

pytest.importorskip("Bio.PDB", reason="needs biopython")

NAMES = {"A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "K": "LYS", "L": "LEU", "M": "MSE"}
PROTEIN = "ACDEFGKLMACDDEEFFGGKKLLM"


def place(number: int) -> np.ndarray:
    """A right-handed helix, 1.5 Angstrom and 100 degrees for each residue."""
    angle = np.radians(100 * number)
    return np.array([2.3 * np.cos(angle), 2.3 * np.sin(angle), 1.5 * number])


def pdb(letters: str, chain: str = "A", first: int = 1, left_out: tuple[int, ...] = ()) -> str:
    """C-alpha atoms of a chain; the residue with index 1 has the number of the one before and an insertion code."""
    lines = []
    for i, letter in enumerate(letters):
        if i in left_out:
            continue
        x, y, z = place(i)
        number, code = (first + i, " ") if i != 1 else (first, "A")
        kind = "HETATM" if letter == "M" else "ATOM  "
        lines.append(
            f"{kind}{i + 1:5d}  CA  {NAMES[letter]} {chain}{number:4d}{code}   {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"  # noqa: E501
        )
    return "\n".join([*lines, "TER", ""])


def table(ids: list[str], texts: list[str], kind: str = "sequence") -> pl.DataFrame:
    counts = [len(text) for text in texts]
    columns = {"example": range(len(ids)), "id": ids, "kind": [kind] * len(ids), "text": texts, "tokens": counts}
    images = pl.Series([None] * len(ids), dtype=pl.Binary)
    return pl.DataFrame(columns).with_columns(image=images, first_token=np.cumsum([0, *counts[:-1]]))


def test_files_are_found_by_the_id_of_the_sequence(tmp_path: Path) -> None:
    for name in ("P1.pdb", "P1.cif", "AF-Q2-F1-model_v4.cif.gz", "AF-Q3-F1.pdb", "notes.txt", "R4.ent"):
        (tmp_path / name).touch()
    ids = ["P1", "sp|Q2|NAME", "Q3:100-200", "R4#2:0-10", "other", "AF-Q3-F1"]
    found = find_structures(tmp_path, table(ids, ["A"] * 6))
    assert {n: path.name for n, path in found.items()} == {
        0: "P1.cif",
        1: "AF-Q2-F1-model_v4.cif.gz",
        2: "AF-Q3-F1.pdb",
        3: "R4.ent",
        5: "AF-Q3-F1.pdb",
    }


def test_letters_have_the_residues_of_the_chain_that_is_the_sequence(tmp_path: Path) -> None:
    """The chain starts later, lacks two residues, and one letter differs; another chain is another protein."""
    chain = "K" + PROTEIN[2:12] + "A" + PROTEIN[13:]
    (tmp_path / "a.pdb.gz").write_bytes(gzip.compress((pdb("GGGGGG", "X") + pdb(chain, "B", 50, (6, 7))).encode()))
    found = read_structure(tmp_path / "a.pdb.gz", PROTEIN)
    assert (found.name, found.form, found.chain) == ("a.pdb", "pdb", "B")
    numbers = {letter: letter - 1 for letter in range(2, len(PROTEIN)) if letter - 1 not in (6, 7)}
    resolved = {letter: number for letter, number in enumerate(found.residues) if number is not None and letter > 1}
    assert resolved == {letter: f"{50 + i}" if i != 1 else "50A" for letter, i in numbers.items()}
    for letter, i in numbers.items():
        np.testing.assert_allclose(found.places[letter], place(i), atol=1e-3)
    assert np.isnan(found.places[[7, 8]]).all()


def test_a_window_has_its_part_of_the_structure(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(pdb(PROTEIN))
    found = read_structure(tmp_path / "a.pdb", PROTEIN[5:15])
    assert found.residues == [str(number) for number in range(6, 16)]


def test_turning_a_structure_keeps_its_shape_and_its_hand() -> None:
    places = np.array([place(number) for number in range(30)])
    places[4] = np.nan
    flat = flattened(places)
    known = np.delete(np.arange(30), 4)
    distances = [np.linalg.norm(one[known, None] - one[None, known], axis=-1) for one in (places, flat)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    hands = [np.linalg.det(one[[1, 2, 3]] - one[0]) for one in (places, flat)]
    assert hands[0] == pytest.approx(hands[1])
    spread = np.nanstd(flat, axis=0)
    assert spread[0] > spread[1] >= spread[2]
    assert np.isnan(flat[4]).all()


def test_mistakes_get_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no structures; should hold files \.cif, \.mmcif, \.pdb, \.ent"):
        find_structures(tmp_path / "empty", table(["P1"], ["A"]))
    (tmp_path / "P2.pdb").write_text(pdb("GGGGGGGG"))
    with pytest.raises(UserError, match="no structure is named by the id of a sequence, such as 'P1'"):
        find_structures(tmp_path, table(["P1"], ["A"]))
    with pytest.raises(UserError, match="structures belong to sequences, and these examples are text"):
        find_structures(tmp_path, table(["P2"], ["A"], "text"))
    with pytest.raises(
        UserError, match=r"P2\.pdb: no chain of it is the sequence that starts with ACDEFGKLMACDDEEFFGGK"
    ):
        read_structure(tmp_path / "P2.pdb", PROTEIN)
    (tmp_path / "broken.cif").write_text("data_x\nloop_\n_atom_site.id\n1\n")
    with pytest.raises(UserError, match=r"broken\.cif: is not a structure, or is damaged"):
        read_structure(tmp_path / "broken.cif", PROTEIN)
    (tmp_path / "torn.pdb.gz").write_bytes(gzip.compress(b"ATOM")[:-3])
    with pytest.raises(UserError, match=r"torn\.pdb\.gz: cannot be read"):
        read_structure(tmp_path / "torn.pdb.gz", PROTEIN)


def suite(tmp_path: Path) -> dict[str, Any]:
    """A suite that evaluates SAEs of proteins, which have structures."""
    source = {"family": "alphafold3", "inputs": str(tmp_path / "in"), "outputs": str(tmp_path / "out")}
    files = [{"path": str(tmp_path / "some.fasta")}]
    return {
        "models": {"af3": {"domain": "p", "dataset": "some", "layers": 0, "train_layers": 0, "source": source}},
        "datasets": {"some": {"kind": "sequences", "alphabet": "protein", "files": files}},
        "evaluation": {"structures": {"some": {"path": str(tmp_path / "structures")}}},
    }


def test_another_structure_makes_the_pages_stale_and_not_the_evaluation(tmp_path: Path) -> None:
    (tmp_path / "some.fasta").write_text(f">P1\n{PROTEIN}\n")
    (tmp_path / "structures").mkdir()
    config = check_config(suite(tmp_path), "test")
    keys = [{target.path: target.key for target in wanted_targets(config)}]
    (tmp_path / "structures" / "P1.pdb").write_text(pdb(PROTEIN))
    keys.append({target.path: target.key for target in wanted_targets(config)})
    changed = {path for path, key in keys[0].items() if keys[1][path] != key}
    assert changed
    assert all("/features/" in path or path.endswith("report.json") for path in changed)


def test_structures_belong_to_a_data_set_of_sequences(tmp_path: Path) -> None:
    wrong = suite(tmp_path) | {"evaluation": {"structures": {"af3": {"path": str(tmp_path)}}}}
    with pytest.raises(UserError, match=r"evaluation\.structures: 'af3' is no data set of kind sequences"):
        check_config(wrong, "test")


def write_protein(folder: Path) -> Seen:
    """One protein; latent 0 fires at letters 3 to 7 and at the last one, latent 1 nowhere."""
    folder.mkdir(parents=True)
    spans = [(0, i, i + 1, False) for i in range(len(PROTEIN))]
    write_seen(
        folder, table(["P1"], [PROTEIN]), pl.DataFrame(spans, ["example", "start", "end", "massive"], orient="row")
    )
    codes = np.zeros((len(PROTEIN), 2), np.float32)
    codes[3:8, 0], codes[-1, 0] = np.arange(1, 6), -5
    matrix = sparse.csc_array(codes)
    write_codes(folder, "a-seed0", matrix)
    write_latents(folder, "a-seed0", latents_table(matrix, None))
    return read_seen(folder)


@pytest.fixture(scope="module")
def protein(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The pages of a protein with a structure, and the file of the structure."""
    folder = tmp_path_factory.mktemp("protein")
    seen = write_protein(folder / "evaluation")
    (folder / "structures").mkdir()
    structure = folder / "structures" / "P1.pdb"
    structure.write_text(pdb(PROTEIN))
    files = find_structures(folder / "structures", seen.examples)
    write_pages(folder / "pages", seen, "a-seed0", Names("a-seed0"), structures=files)
    return folder / "pages", structure


def test_pages_hold_the_structures_that_they_show(protein: tuple[Path, Path]) -> None:
    pages, structure = protein
    text = (pages / "data" / "structures" / "0.js").read_text()
    assert json.loads(text.removeprefix('received("structures/0",').removesuffix(");\n")) == as_record(
        read_structure(structure, PROTEIN)
    )


def test_the_command_takes_a_folder_of_structures(protein: tuple[Path, Path], tmp_path: Path) -> None:
    pages, structure = protein
    arguments = ("--to", tmp_path / "pages", "--structures", structure.parent)
    saelib("features", pages.parent / "evaluation", "a-seed0", *arguments)
    same = Path("data/structures/0.js")
    assert (tmp_path / "pages" / same).read_bytes() == (pages / same).read_bytes()


@pytest.fixture(scope="module")
def opened(browser: Any, protein: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The browser, in which the structure is open, and the file that was downloaded there."""
    folder = tmp_path_factory.mktemp("downloads")
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    open_page(browser, protein[0] / "index.html", "#0")
    until(browser, lambda window: window.execute_script("return document.querySelector('.structure summary')"))
    browser.execute_script("document.querySelector('.structure summary').click()")
    link = "document.querySelector('.structure a')"
    until(browser, lambda window: window.execute_script(f"return {link}"))
    browser.execute_script(f"{link}.click()")
    path = folder / "latent_0_P1.mvsj"
    until(browser, lambda _: path.is_file())
    return browser, path


DRAWN = """
    const canvas = document.querySelector(".structure canvas");
    if (!canvas || canvas.width < 100) return null;
    const bytes = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const count = { blue: 0, orange: 0, all: 0 };
    for (let i = 0; i < bytes.length; i += 4) if (bytes[i + 3] > 40) {
      count.all += 1;
      if (bytes[i + 2] > bytes[i] + 60) count.blue += 1;
      if (bytes[i] > bytes[i + 2] + 60) count.orange += 1;
    }
    return count.all ? [count, canvas.toDataURL()] : null;
"""


@pytest.mark.browser
def test_the_page_draws_the_structure_and_turns_it(opened: tuple[Any, Path]) -> None:
    browser, _ = opened
    count, before = until(browser, lambda window: window.execute_script(DRAWN))
    assert 0 < count["orange"] < count["blue"] < count["all"] / 2
    press = (
        "document.querySelector('.structure canvas').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))"
    )
    browser.execute_script(press)
    assert browser.execute_script(DRAWN)[1] != before
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.browser
def test_the_file_for_viewers_holds_structure_and_colors(opened: tuple[Any, Path], protein: tuple[Path, Path]) -> None:
    assert_colors_are_the_activations(json.loads(opened[1].read_text()), protein[1])


@pytest.mark.browser
@pytest.mark.interop
def test_the_file_is_valid_molviewspec(opened: tuple[Any, Path]) -> None:
    python = python_of("viewers")
    if python is None:
        pytest.skip("viewers are not installed; make test-interop installs them")
    check = "import sys, molviewspec; molviewspec.validate_state_tree(open(sys.argv[1]).read())"
    done = subprocess.run([python, "-c", check, opened[1]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def assert_colors_are_the_activations(scene: dict[str, Any], structure: Path) -> None:
    (download,) = scene["root"]["children"]
    assert base64.b64decode(download["params"]["url"].partition(",")[2]).decode() == structure.read_text()
    (parse,) = download["children"]
    assert parse["params"] == {"format": "pdb"}
    whole, *tips = parse["children"][0]["children"]
    (cartoon,) = whole["children"]
    rest, *colors = [node["params"] for node in cartoon["children"]]
    assert rest["selector"] == "all"
    residues = [(one["auth_asym_id"], one["auth_seq_id"]) for color in colors for one in color["selector"]]
    assert sorted(residues) == [("A", number) for number in (4, 5, 6, 7, 8, 24)]
    assert len({color["color"] for color in colors}) == 6  # five strengths, and a negative one
    assert {tip["children"][0]["params"]["text"] for tip in tips} >= {"latent 0: 5.00", "latent 0: -5.00"}
