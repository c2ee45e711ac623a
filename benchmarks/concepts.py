"""Measures how fast latents are compared with annotated concepts, against a dense loop over latents."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.timing import command_line, environment, environment_line, median_cpu, show
from saelib.evaluation.concepts import THRESHOLDS, ConceptMeter
from saelib.evaluation.labels import Labels

PACKAGES = ("numpy", "numba", "scipy")


def main(argv: list[str]) -> None:
    parser = command_line("concepts", __doc__)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--latents", type=int, default=8_192)
    parser.add_argument("--k", type=int, default=64, help="latents that fire for a token")
    parser.add_argument("--concepts", type=int, default=400)
    parser.add_argument("--loop-latents", type=int, default=64, help="latents that the loop runs over, scaled up")
    options = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    codes = random_codes(rng, options.tokens, options.latents, options.k)
    labels = random_labels(rng, options.tokens, options.concepts)
    maxima = codes.max(axis=0).toarray().ravel()
    some = codes[:, : options.loop_latents].toarray() / np.maximum(maxima[: options.loop_latents], 1e-30)

    def counted() -> None:
        ConceptMeter(labels.concepts, maxima).add(codes, labels)

    ConceptMeter(labels.concepts, maxima).add(codes[:10], labels.rows(0, 10))  # compiles
    seconds = median_cpu({"counted": counted, "loop": lambda: loop_over_latents(some, labels)})
    loop = seconds["loop"] * options.latents / options.loop_latents
    found = {
        "ours_s": seconds["counted"],
        "loop_s": loop,
        "ratio": loop / seconds["counted"],
        "tokens": options.tokens,
        "latents": options.latents,
        "k": options.k,
        "concepts": options.concepts,
        "labels": len(labels.token),
        "environment": environment(*PACKAGES),
    }
    lines = [
        f"{options.tokens:,} tokens, {options.latents:,} latents (k = {options.k}), {options.concepts:,} concepts, "
        f"{len(labels.token):,} labels, {len(THRESHOLDS)} thresholds",
        f"sparse counts  {seconds['counted']:10.2f} s",
        f"loop           {loop:10.2f} s   ({options.loop_latents} latents, scaled up)",
        f"ratio          {found['ratio']:10.0f}",
        environment_line(*PACKAGES),
    ]
    show(found, lines, options.json)


def random_codes(rng: np.random.Generator, tokens: int, latents: int, k: int) -> sparse.csr_array:
    """Draws codes in which exactly k latents fire for each token; some latents fire much more than others."""
    chosen = np.sort((latents * rng.random((tokens, k)) ** 2).astype(np.int32), axis=1)
    values = rng.exponential(size=chosen.size)
    return sparse.csr_array((values, chosen.ravel(), np.arange(0, chosen.size + 1, k)), (tokens, latents))


def random_labels(rng: np.random.Generator, tokens: int, concepts: int) -> Labels:
    """Draws a domain of 1 to 39 tokens for every 8 tokens: about 2.5 labels for each."""
    domains = tokens // 8
    lengths, starts = rng.integers(1, 40, domains), rng.integers(0, tokens, domains)
    token = np.concatenate([np.arange(a, min(a + n, tokens)) for a, n in zip(starts, lengths, strict=True)])
    domain = np.repeat(np.arange(domains), np.minimum(lengths, tokens - starts))
    concept = rng.integers(0, concepts, domains)[domain]
    return Labels(tokens, tuple(f"concept {number}" for number in range(concepts)), token, concept, domain)


def loop_over_latents(scaled: NDArray[np.floating], labels: Labels) -> tuple[NDArray[np.int64], ...]:
    """Counts, latent by latent, the tokens (hits, firings) and domains in which it exceeds each threshold.

    `scaled` is dense [tokens, latents], with a maximum of 1 for each latent. The first and the last result are
    [concepts, latents, thresholds], the second is [latents, thresholds].
    """
    latents, concepts = scaled.shape[1], len(labels.concepts)
    has_concept = labels.matrix().astype(np.int64).T.tocsr()
    hits = np.zeros((concepts, latents, len(THRESHOLDS)), np.int64)
    fires, domains_hit = np.zeros(hits.shape[1:], np.int64), np.zeros_like(hits)
    concept_of = np.zeros(labels.domain.max(initial=0) + 1, np.int64)
    concept_of[labels.domain] = labels.concept
    for latent in range(latents):
        for level, threshold in enumerate(THRESHOLDS):
            firing = scaled[:, latent] > threshold
            fires[latent, level] = firing.sum()
            hits[:, latent, level] = has_concept @ firing.astype(np.int64)
            found = np.unique(labels.domain[firing[labels.token]])
            domains_hit[:, latent, level] = np.bincount(concept_of[found], minlength=concepts)
    return hits, fires, domains_hit
