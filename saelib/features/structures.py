"""Structures of proteins, from files that are named by the sequences' ids, with the residue of each letter."""

import gzip
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.environments import explain_missing_extras
from saelib.errors import UserError

if TYPE_CHECKING:
    import polars as pl

FORMATS = {".cif": "mmcif", ".mmcif": "mmcif", ".pdb": "pdb", ".ent": "pdb"}
"""Ending of a file, before `.gz` -> its format."""
ALPHAFOLD = re.compile(r"AF-(.+)-F1(-model_v\d+)?")
"""Names of AlphaFold's files, which hold the id of the sequence."""
LEAST_SAME = 0.5
"""Share of the residues of a chain, or of the letters if there are fewer, that must be the same in both."""


class Structure(NamedTuple):
    """A structure of a sequence."""

    name: str
    """Name of the file, without `.gz`."""
    form: str
    """mmcif or pdb."""
    text: str
    """Content of the file."""
    chain: str
    """Name of the chain that is the sequence, as its authors call it."""
    residues: list[str | None]
    """Number of each letter's residue, with the insertion code behind it: '12', '52A'; None if it is not resolved."""
    places: NDArray[np.float64]
    """Places of the residues' C-alpha atoms, [letters, 3], in Angstrom; NaN if they are not resolved."""


def find_structures(folder: Path, examples: "pl.DataFrame") -> dict[int, Path]:
    """Finds the files of structures that are named by the ids of examples.

    `P69905.cif`, `P69905.pdb.gz` and AlphaFold's `AF-P69905-F1-model_v4.cif` belong to the id P69905, to
    `sp|P69905|HBA_HUMAN`, and to windows of them.

    Args:
        folder: The folder of the files.
        examples: The table of examples (`saelib.evaluation.seen`).

    Returns:
        Numbers of the examples that have a structure, and its file. Of two files with one name, mmCIF comes first.

    Raises:
        UserError: If the examples are no sequences, if the folder holds no structure, or if none is named by an id.
    """
    kinds = examples["kind"].unique().to_list()
    if kinds != ["sequence"]:
        raise UserError(f"{folder}: structures belong to sequences, and these examples are {', '.join(sorted(kinds))}")
    paths = [path for path in sorted(folder.glob("*"), reverse=True) if _format(path)]
    files = {name: path for path in paths for name in _names(path)}
    if not files:
        raise UserError(f"{folder}: holds no structures; should hold files {', '.join(FORMATS)} (or .gz of these)")
    found: dict[int, Path] = {}
    for number, name in examples.select("example", "id").iter_rows():
        whole = re.sub(r"(#\d+)?(:\d+-\d+)?$", "", name)
        path = next((files[part] for part in (whole, *whole.split("|")) if part in files), None)
        if path is not None:
            found[number] = path
    if not found:
        raise UserError(f"{folder}: no structure is named by the id of a sequence, such as '{examples['id'][0]}'")
    return found


def read_structure(path: Path, sequence: str) -> Structure:
    """Reads a structure, and finds the chain and the residues that are the letters of a sequence.

    The chain may lack residues, have others at its ends, or differ in some of them.

    Raises:
        UserError: If the file cannot be read, or if no chain resembles the sequence.
    """
    text = _read(path)
    best: tuple[float, str, Mapping[int, Any]] = (0.0, "", {})
    for chain in _chains(path, text):
        best = max(best, _matched(chain, sequence), key=lambda match: match[0])
    if best[0] < LEAST_SAME:
        raise UserError(f"{path}: no chain of it is the sequence that starts with {sequence[:20]}")
    residues: list[str | None] = [None] * len(sequence)
    places = np.full((len(sequence), 3), np.nan)
    for letter, residue in best[2].items():
        _, number, insertion = residue.id
        residues[letter] = f"{number}{insertion.strip()}"
        places[letter] = residue["CA"].coord
    return Structure(path.name.removesuffix(".gz"), _format(path), text, best[1], residues, places)


def as_record(found: Structure) -> dict[str, Any]:
    """Gives a structure as the page reads it; places are tenths of an Angstrom, and null if they are not resolved."""
    places = np.rint(10 * flattened(found.places))
    return {
        "name": found.name,
        "format": found.form,
        "text": found.text,
        "chain": found.chain,
        "residues": found.residues,
        "places": [None if np.isnan(place[0]) else place.astype(int).tolist() for place in places],
    }


def flattened(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turns places [letters, 3] so that they spread most along x and least along z, around 0; NaN stay NaN."""
    known = places[~np.isnan(places[:, 0])]
    centered = places - known.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov((known - known.mean(axis=0)).T) if len(known) > 1 else np.eye(3))
    axes = axes[:, ::-1]
    return centered @ (axes * np.sign(np.linalg.det(axes)))  # a rotation and never a mirror image


def _names(path: Path) -> list[str]:
    """Lists the ids that a file may belong to."""
    name = Path(path.name.removesuffix(".gz")).stem
    alphafold = ALPHAFOLD.fullmatch(name)
    return [name, alphafold[1]] if alphafold else [name]


def _format(path: Path) -> str:
    return FORMATS.get(Path(path.name.removesuffix(".gz")).suffix.lower(), "")


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.name.endswith(".gz") else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _chains(path: Path, text: str) -> list[tuple[str, list[Any], str]]:
    """Parses the first model: name, residues with a C-alpha atom, and their letters, of each chain."""
    with explain_missing_extras():
        from Bio.Data.PDBData import protein_letters_3to1_extended as letters
        from Bio.PDB.MMCIFParser import MMCIFParser
        from Bio.PDB.PDBParser import PDBParser
    parser: Any = MMCIFParser(QUIET=True) if _format(path) == "mmcif" else PDBParser(QUIET=True)
    try:
        model = next(iter(parser.get_structure("", io.StringIO(text))))
    except Exception as error:  # Biopython's parsers raise whatever a damaged line leads to
        raise UserError(f"{path}: is not a structure, or is damaged ({error!r})") from error
    found = []
    for chain in model:
        residues = [one for one in chain if "CA" in one and one.resname.strip() in letters]
        found.append((chain.id, residues, "".join(letters[one.resname.strip()] for one in residues)))
    return found


def _matched(chain: tuple[str, list[Any], str], sequence: str) -> tuple[float, str, dict[int, Any]]:
    """Aligns a chain with a sequence: share of letters that are the same, name, and letter -> residue."""
    from Bio.Align import PairwiseAligner

    name, residues, letters = chain
    if not letters:
        return 0.0, name, {}
    aligner = PairwiseAligner(mode="global", match_score=1, mismatch_score=-1, open_gap_score=-2)
    aligner.extend_gap_score, aligner.end_gap_score = -0.1, 0
    blocks = zip(*aligner.align(sequence, letters)[0].aligned, strict=True)
    pairs = [pair for ours, theirs in blocks for pair in zip(range(*ours), range(*theirs), strict=True)]
    same = sum(sequence[letter] == letters[place] for letter, place in pairs)
    return same / min(len(sequence), len(letters)), name, {letter: residues[place] for letter, place in pairs}
