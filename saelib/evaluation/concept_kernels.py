"""The compiled loop that counts how latents and domains of concepts meet."""

from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from saelib.files.compiled import compiled_from
from saelib.files.digest import file_sha256
from saelib.progress import announce_compiling

announce_compiling()


@numba.njit(cache=True, nogil=True)
def _count(
    indptr: NDArray[np.int64],
    latents: NDArray[np.int32],
    levels: NDArray[np.uint8],
    token: NDArray[np.int64],
    concept: NDArray[np.int64],
    is_first: NDArray[np.bool_],
    domain_start: NDArray[np.int64],
    hits: NDArray[np.int32],
    domains_hit: NDArray[np.int32],
) -> None:
    """Counts, for labels sorted by domain, the tokens and the domains of each concept that a latent fires in.

    Args:
        indptr: With `latents` and `levels`, the codes of the tokens as in a `csr_array`.
        latents: The latents that fire.
        levels: Number of thresholds that the activation exceeds.
        token: [labels]
        concept: [labels]
        is_first: [labels]; False if an earlier label has the same token and concept, so that it is counted once.
        domain_start: [domains + 1]: the first label of each domain, and the number of all labels.
        hits: [concepts, latents, thresholds]: tokens, by the highest threshold that is exceeded.
        domains_hit: The same for domains.
    """
    best = np.zeros(hits.shape[1], np.uint8)
    touched = np.empty(hits.shape[1], np.int64)
    for domain in range(len(domain_start) - 1):
        met, number = 0, concept[domain_start[domain]]
        for label in range(domain_start[domain], domain_start[domain + 1]):
            for entry in range(indptr[token[label]], indptr[token[label] + 1]):
                latent, level = latents[entry], levels[entry]
                if level == 0:
                    continue
                if is_first[label]:
                    hits[number, latent, level - 1] += 1
                if best[latent] == 0:
                    touched[met] = latent
                    met += 1
                best[latent] = max(best[latent], level)
        for position in range(met):
            latent = touched[position]
            domains_hit[number, latent, best[latent] - 1] += 1
            best[latent] = 0


count: Any = compiled_from(_count, file_sha256(Path(__file__)))
