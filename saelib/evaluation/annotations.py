"""Reads annotations of sequences (Swiss-Prot, GenBank, EMBL) and tables of labels, and turns them into labels."""

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelib.environments import explain_missing_extras
from saelib.errors import UserError
from saelib.evaluation.labels import Labels

Kind = Literal["swiss", "genbank", "embl"]
KINDS: dict[str, Kind] = {
    ".dat": "swiss",
    ".swiss": "swiss",
    ".txt": "swiss",
    ".gb": "genbank",
    ".gbff": "genbank",
    ".gbk": "genbank",
    ".genbank": "genbank",
    ".embl": "embl",
}
"""Ending of a file, before `.gz` -> its format."""

SWISS = {
    "ACT_SITE": "Active site",
    "BINDING": "Binding site",
    "CARBOHYD": "Glycosylation",
    "CA_BIND": "Calcium binding",
    "COILED": "Coiled coil",
    "COMPBIAS": "Compositional bias",
    "CROSSLNK": "Cross-link",
    "DISULFID": "Disulfide bond",
    "DNA_BIND": "DNA binding",
    "DOMAIN": "Domain",
    "HELIX": "Helix",
    "INIT_MET": "Initiator methionine",
    "INTRAMEM": "Intramembrane",
    "LIPID": "Lipidation",
    "METAL": "Metal binding",
    "MOD_RES": "Modified residue",
    "MOTIF": "Motif",
    "NON_STD": "Non-standard residue",
    "NP_BIND": "Nucleotide binding",
    "PEPTIDE": "Peptide",
    "PROPEP": "Propeptide",
    "REGION": "Region",
    "REPEAT": "Repeat",
    "SIGNAL": "Signal peptide",
    "SITE": "Site",
    "STRAND": "Beta strand",
    "TOPO_DOM": "Topological domain",
    "TRANSIT": "Transit peptide",
    "TRANSMEM": "Transmembrane",
    "TURN": "Turn",
    "ZN_FING": "Zinc finger",
}
"""Keys of Swiss-Prot's feature table that tell the role of residues. Others (CHAIN, CONFLICT, VARIANT, MUTAGEN ...)
describe the entry or experiments. Amino acids are no concepts, because a latent for one is a latent for one token."""
UNNAMED = {
    "Helix",
    "Beta strand",
    "Turn",
    "Coiled coil",
    "Disulfide bond",
    "Initiator methionine",
    "Peptide",
    "Propeptide",
}
"""Categories whose notes are names of single molecules, or nothing: they are one concept each."""
TOO_WIDE = {"Compositional bias", "Domain", "Modified residue", "Motif", "Region", "Repeat", "Site"}
"""Categories that have nothing in common but the name: only their notes are concepts."""
APART = {"Disulfide bond", "Cross-link"}
"""Categories whose two positions are the ends of a bond and not those of a stretch; each end is a domain."""
GENBANK_CLASSES = ("regulatory_class", "ncRNA_class", "mobile_element_type", "rpt_type")
"""Qualifiers that name a kind of feature."""
NOT_LABELS = {"source", "gap", "assembly_gap", "misc_difference", "conflict", "variation", "old_sequence", "unsure"}
"""GenBank features that describe the record and not the sequence."""


class Annotation(NamedTuple):
    """One occurrence of a concept in a sequence."""

    concept: str
    positions: NDArray[np.int64]
    """Residues or nucleotides, from 0, in order."""


@dataclass(frozen=True, eq=False)
class Record:
    """A sequence and the annotations of its parts."""

    name: str
    sequence: str
    annotations: tuple[Annotation, ...]

    def __repr__(self) -> str:
        """Shows the sizes."""
        return f"Record({self.name!r}, {len(self.sequence):,} long, {len(self.annotations):,} annotations)"


def read_annotations(path: str | Path, kind: Kind | None = None) -> list[Record]:
    """Reads annotated sequences: a Swiss-Prot flat file, or a GenBank or EMBL file, possibly compressed (.gz).

    Swiss-Prot's categories become concepts such as `Helix`, and categories with a note also `Binding site: ATP`.
    Numbers that only count occurrences (`SH3 1`) and evidence are dropped. Wide categories such as Domain are only
    concepts together with their note. GenBank and EMBL features are concepts by their key and class, such as `CDS` or
    `regulatory: promoter`, on either strand. Features at unknown positions are left out. Needs biopython.

    Args:
        path: The file.
        kind: Its format. Without it, the ending decides: .swiss is Swiss-Prot, .gb, .gbk or .gbff is GenBank, .embl is
            EMBL, and .dat or .txt is EMBL if the first line counts base pairs (`518 BP.`), otherwise Swiss-Prot.

    Raises:
        UserError: If the file is missing, damaged or of an unknown format, or if biopython is not installed.

    Example:
        >>> records = evaluation.read_annotations("uniprot_sprot.dat.gz")  # doctest: +SKIP
        >>> labels = evaluation.label_residues(records, max_length=1022)  # doctest: +SKIP
    """
    path = Path(path)
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind is None and ending not in KINDS:
        raise UserError(f"{path}: format unknown; say kind='swiss', 'genbank' or 'embl', or end it {', '.join(KINDS)}")
    with explain_missing_extras():
        from Bio import SeqIO
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    found = kind or KINDS[ending]
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", errors="replace") as file:
            if kind is None and ending in (".dat", ".txt"):  # the two formats share these endings
                found = "embl" if file.readline().rstrip().endswith(" BP.") else "swiss"
                file.seek(0)
            records = [_record(one, found, path) for one in SeqIO.parse(file, found)]
    except UserError:
        raise
    except Exception as error:  # Biopython's parsers raise whatever a damaged line leads to
        raise UserError(f"{path}: is not a {found} file, or is damaged ({error})") from error
    if not records:
        raise UserError(f"{path}: holds no record of format '{found}'")
    return records


def label_residues(
    records: Sequence[Record], max_length: int | None = None, spans: Sequence[ArrayLike] | None = None
) -> Labels:
    """Labels the tokens of annotated sequences, one record after another.

    Args:
        records: From `read_annotations`, in the order of the tokens.
        max_length: Residues that the model reads of each sequence; the others have no tokens.
        spans: For each record, the residues that each token covers, [tokens, 2]: start and stop, from 0, in order and
            without overlap. Without it, each residue is a token.

    Raises:
        UserError: If spans overlap, or if there is not one array of them for each record.

    Example:
        >>> record = evaluation.Record("a", "ACDEF", (evaluation.Annotation("Helix", np.arange(1, 4)),))
        >>> evaluation.label_residues([record]).token.tolist()
        [1, 2, 3]
        >>> evaluation.label_residues([record], spans=[[(0, 2), (2, 4)]]).token.tolist()
        [0, 1]
    """
    if spans is not None and len(spans) != len(records):
        raise UserError(f"spans: got {len(spans)} for {len(records)} records; should be one array for each")
    number: dict[str, int] = {}
    tokens = domains = 0
    found: list[tuple[NDArray[np.int64], int]] = []
    for index, record in enumerate(records):
        length = min(len(record.sequence), max_length or len(record.sequence))
        bounds = _bounds(spans[index], record) if spans is not None else None
        count = length if bounds is None else len(bounds)
        for annotation in record.annotations:
            inside = annotation.positions[annotation.positions < length]
            own = inside if bounds is None else _covering(bounds, inside)
            if len(own):
                found.append((own + tokens, number.setdefault(annotation.concept, len(number))))
        tokens += count
    domains = len(found)
    sizes = [len(own) for own, _ in found]
    return Labels(
        tokens,
        tuple(number),
        np.concatenate([own for own, _ in found]) if found else np.zeros(0, np.int64),
        np.repeat(np.array([concept for _, concept in found], np.int64), sizes),
        np.repeat(np.arange(domains), sizes),
    )


def read_labels(path: str | Path, columns: Sequence[str] | None = None) -> Labels:
    """Reads labels of arrays: a CSV or parquet table with one row for each row of activations, in the same order.

    A column of truth values is one concept; each value of a column of texts or whole numbers is one. Every row is a
    domain of its own. Empty cells are no concept.

    Args:
        path: The table, .csv, .tsv or .parquet.
        columns: Columns to read; all without it.

    Raises:
        UserError: If the file is missing or damaged, if a column is missing, or if one holds fractions.

    Example:
        >>> evaluation.read_labels("cells.csv", columns=["cell_type"]).table()  # doctest: +SKIP
        {'cell_type: B cell': 412, 'cell_type: T cell': 1033}
    """
    import polars as pl

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    readers: dict[str, Any] = {
        ".csv": pl.read_csv,
        ".parquet": pl.read_parquet,
        ".tsv": lambda file: pl.read_csv(file, separator="\t"),
    }
    if path.suffix not in readers:
        raise UserError(f"{path}: format unknown; labels are read from {', '.join(readers)}")
    try:
        table = readers[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error})") from error
    if missing := [name for name in columns or [] if name not in table.columns]:
        raise UserError(f"{path}: has no column '{missing[0]}'; its columns are {', '.join(table.columns)}")
    parts = [_column(table[name], path) for name in columns or table.columns]
    if not parts:
        raise UserError(f"{path}: has no column")
    return Labels.joined(parts)


def _column(values: Any, path: Path) -> Labels:
    import polars as pl

    if values.dtype == pl.Boolean:
        return Labels.of_rows([values.name if value else None for value in values])
    if values.dtype.is_integer() or values.dtype in (pl.String, pl.Categorical, pl.Enum):
        return Labels.of_rows(values.to_list(), prefix=f"{values.name}: ")
    raise UserError(f"{path}: column '{values.name}' holds {values.dtype}; labels are texts, whole numbers or truths")


def _record(record: Any, kind: Kind, path: Path) -> Record:
    try:
        sequence = str(record.seq)
    except Exception as error:  # Biopython's own error for a sequence of which only the length is known
        raise UserError(f"{path}: record '{record.id}' holds no sequence") from error
    annotations = _swiss(record.features) if kind == "swiss" else _genbank(record.features)
    inside = (one for one in annotations if len(one.positions) and one.positions[-1] < len(sequence))
    return Record(record.name or record.id, sequence, tuple(inside))


def _swiss(features: Sequence[Any]) -> Iterator[Annotation]:
    for feature in features:
        category, positions = SWISS.get(feature.type), _positions(feature)
        if category is None or positions is None:
            continue
        occurrences = [positions]
        if category in APART:
            occurrences = [positions[:1], positions[-1:]] if len(positions) > 1 else [positions]
        note = "" if category in UNNAMED else _note(feature.qualifiers)
        for occurrence in occurrences:
            if category not in TOO_WIDE:
                yield Annotation(category, occurrence)
            if note:
                yield Annotation(f"{category}: {note}", occurrence)


def _note(qualifiers: dict[str, Any]) -> str:
    """Gives the note of a feature, without evidence and without the number of the occurrence."""
    text = next((str(qualifiers[key]) for key in ("ligand", "note", "description") if qualifiers.get(key)), "")
    text = re.sub(r"\s*\(?\b(By similarity|Potential|Probable)\)?\.?$", "", text.split(";")[0]).rstrip(". ")
    return re.sub(r"\s+\d+$", "", text)


def _genbank(features: Sequence[Any]) -> Iterator[Annotation]:
    for feature in features:
        positions = _positions(feature)
        if feature.type in NOT_LABELS or positions is None:
            continue
        yield Annotation(feature.type, positions)
        for qualifier in GENBANK_CLASSES:
            for value in feature.qualifiers.get(qualifier, []):
                yield Annotation(f"{feature.type}: {value}", positions)


def _positions(feature: Any) -> NDArray[np.int64] | None:
    """Gives the positions of a feature, in order; None if they are unknown or in another sequence."""
    parts = feature.location.parts if feature.location is not None else []
    if not parts or any(part.ref or not isinstance(part.start, int) or not isinstance(part.end, int) for part in parts):
        return None
    return np.unique(np.concatenate([np.arange(max(0, int(part.start)), int(part.end)) for part in parts]))


def _bounds(spans: ArrayLike, record: Record) -> NDArray[np.int64]:
    bounds = np.asarray(spans, np.int64).reshape(-1, 2)
    if (bounds[:, 0] > bounds[:, 1]).any() or (bounds[1:, 0] < bounds[:-1, 1]).any():
        raise UserError(f"spans of record '{record.name}': should be (start, stop) in order, without overlap")
    return bounds


def _covering(bounds: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Finds the tokens that cover any of these positions."""
    token = np.searchsorted(bounds[:, 1], positions, side="right")
    inside = token < len(bounds)
    token, positions = token[inside], positions[inside]
    return np.unique(token[bounds[token, 0] <= positions])
