"""Labels of tokens: which concepts each token belongs to, and to which domain (one occurrence) of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from saelib.errors import UserError


@dataclass(frozen=True, eq=False)
class Labels:
    """Concepts of tokens. A token may have any number of them, and a domain is one occurrence of one concept."""

    tokens: int
    """Number of tokens, labeled or not."""
    concepts: tuple[str, ...]
    """Names of the concepts."""
    token: NDArray[np.int64]
    """[labels]: the token, from 0."""
    concept: NDArray[np.int64]
    """[labels]: the number of the token's concept."""
    domain: NDArray[np.int64]
    """[labels]: a number of the occurrence of the concept. Labels of one domain have the same concept."""

    def __post_init__(self) -> None:
        """Checks the numbers, and turns lists into arrays."""
        for name in ("token", "concept", "domain"):
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or (values.size and values.dtype.kind not in "iu") or len(values) != len(self.token):
                raise UserError(f"labels: {name} should be whole numbers [{len(self.token)}], one for each label")
            object.__setattr__(self, name, values.astype(np.int64))
        object.__setattr__(self, "concepts", tuple(self.concepts))
        for name, values, stop in (("token", self.token, self.tokens), ("concept", self.concept, len(self.concepts))):
            if len(values) and not 0 <= values.min() <= values.max() < stop:
                raise UserError(
                    f"labels: {name} holds {values.min()} to {values.max()}; should be from 0 to {stop - 1}"
                )
        if self.domain.min(initial=0) < 0:
            raise UserError(f"labels: domain holds {self.domain.min()}; should be 0 or more")
        order = np.argsort(self.domain, kind="stable")
        same_domain = np.diff(self.domain[order]) == 0
        if (np.diff(self.concept[order])[same_domain] != 0).any():
            raise UserError("labels: a domain has two concepts; should be one, with domains numbered across concepts")

    @classmethod
    def of_rows(cls, values: Sequence[Any], prefix: str = "") -> "Labels":
        """Makes a concept of each value of a column with one value per token; each token is a domain of its own.

        Missing values (None, NaN and "") are no concept.

        Example:
            >>> evaluation.Labels.of_rows(["cat", "dog", None, "cat"], prefix="animal_").table()
            {'animal_cat': 2, 'animal_dog': 1}
        """
        named = [(token, str(value)) for token, value in enumerate(values) if value is not None and value == value]
        labeled = [(token, prefix + name) for token, name in named if name]
        concepts = sorted({name for _, name in labeled})
        number = {name: index for index, name in enumerate(concepts)}
        token = np.array([token for token, _ in labeled], np.int64)
        concept = np.array([number[name] for _, name in labeled], np.int64)
        return cls(len(values), tuple(concepts), token, concept, np.arange(len(token)))

    @classmethod
    def of_occurrences(cls, tokens: int, found: Sequence[tuple[str, NDArray[np.intp]]]) -> "Labels":
        """Makes labels of the tokens of each occurrence (a domain) of a concept, given as (concept, its tokens)."""
        number = {name: index for index, name in enumerate(dict.fromkeys(name for name, _ in found))}
        sizes = [len(covered) for _, covered in found]
        return cls(
            tokens,
            tuple(number),
            np.concatenate([np.zeros(0, np.int64), *(covered for _, covered in found)]),
            np.repeat(np.array([number[name] for name, _ in found], np.int64), sizes),
            np.repeat(np.arange(len(found)), sizes),
        )

    @classmethod
    def joined(cls, parts: Sequence["Labels"]) -> "Labels":
        """Labels the same tokens with the concepts of all parts. Raises `UserError` if the tokens differ in number."""
        if len({part.tokens for part in parts}) != 1:
            raise UserError(f"labels of {[part.tokens for part in parts]} tokens; should be of the same tokens")
        concepts = tuple(name for part in parts for name in part.concepts)
        if len(set(concepts)) < len(concepts):
            raise UserError("labels: two parts have a concept of the same name")
        first_concept = np.cumsum([0, *(len(part.concepts) for part in parts)])
        first_domain = np.cumsum([0, *(part._domains_used for part in parts)])
        return cls(
            parts[0].tokens,
            concepts,
            np.concatenate([part.token for part in parts]),
            np.concatenate([part.concept + start for part, start in zip(parts, first_concept, strict=False)]),
            np.concatenate([part.domain + start for part, start in zip(parts, first_domain, strict=False)]),
        )

    def rows(self, start: int, stop: int) -> "Labels":
        """Takes the tokens `start` to `stop`. Cut between examples: a domain that is cut counts on both sides."""
        start, stop, _ = slice(start, stop).indices(self.tokens)
        kept = (self.token >= start) & (self.token < stop)
        return Labels(
            max(0, stop - start), self.concepts, self.token[kept] - start, self.concept[kept], self.domain[kept]
        )

    def select(self, concepts: Sequence[str]) -> "Labels":
        """Keeps some of the concepts. Raises `UserError` if there is no such concept."""
        number = {name: index for index, name in enumerate(self.concepts)}
        if unknown := [name for name in concepts if name not in number]:
            raise UserError(f"labels: there is no concept '{unknown[0]}'")
        new = np.full(len(self.concepts), -1)
        new[[number[name] for name in concepts]] = np.arange(len(concepts))
        kept = new[self.concept] >= 0
        return Labels(self.tokens, tuple(concepts), self.token[kept], new[self.concept[kept]], self.domain[kept])

    def frequent(self, min_tokens: int = 1500, min_domains: int = 25) -> "Labels":
        """Keeps concepts of more than `min_tokens` tokens or `min_domains` domains; InterPLM's numbers by default."""
        kept = (self.token_counts > min_tokens) | (self.domain_counts > min_domains)
        return self.select([name for name, is_kept in zip(self.concepts, kept, strict=True) if is_kept])

    def distinct(self) -> "Labels":
        """Drops each concept that labels the same tokens, in the same domains, as an earlier one.

        Swiss-Prot's `Transmembrane` and `Transmembrane: Helical` are such a pair if all segments are helices.
        """
        order = np.lexsort((self.domain, self.token, self.concept))
        bounds = np.searchsorted(self.concept[order], np.arange(len(self.concepts) + 1))
        first: dict[bytes, str] = {}
        for name, start, stop in zip(self.concepts, bounds, bounds[1:], strict=False):
            own = order[start:stop]
            _, place, number = np.unique(self.domain[own], return_index=True, return_inverse=True)
            # Domains are told apart by the place of their first label, because their numbers differ between concepts.
            first.setdefault(self.token[own].tobytes() + place[number].tobytes(), name)
        return self.select(list(first.values()))

    @property
    def token_counts(self) -> NDArray[np.int64]:
        """[concepts]: tokens of each concept."""
        return np.bincount(_unique(self.concept, self.token), minlength=len(self.concepts))

    @property
    def domain_counts(self) -> NDArray[np.int64]:
        """[concepts]: domains of each concept."""
        return np.bincount(_unique(self.concept, self.domain), minlength=len(self.concepts))

    def matrix(self) -> Any:
        """Gives a `csc_array` [tokens, concepts] of booleans: whether a token has a concept."""
        ones = np.ones(len(self.token), bool)
        return sparse.coo_array((ones, (self.token, self.concept)), (self.tokens, len(self.concepts))).tocsc()

    def table(self) -> dict[str, int]:
        """Counts the domains of each concept, by name."""
        return dict(zip(self.concepts, self.domain_counts.tolist(), strict=True))

    def __repr__(self) -> str:
        """Shows the sizes."""
        domains = int(self.domain_counts.sum())
        return f"Labels({self.tokens:,} tokens, {len(self.concepts):,} concepts, {domains:,} domains)"

    @property
    def _domains_used(self) -> int:
        return int(self.domain.max(initial=-1)) + 1


def _unique(concept: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Gives the concept of each different pair (concept, other)."""
    return np.unique(np.stack([concept, other]), axis=1)[0]


def as_labels(labels: "Labels | ArrayLike") -> "Labels":
    """Takes labels as they are, or a column of one value per token."""
    return labels if isinstance(labels, Labels) else Labels.of_rows(list(np.asarray(labels).tolist()))
