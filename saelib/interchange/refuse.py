"""What most formats cannot express."""

from saelib.errors import UserError
from saelib.sae.file import SavedSAE


def refuse_token_norm(saved: SavedSAE, library: str) -> None:
    """Raise `UserError` where each token is normalized first: weights cannot undo what differs from token to token."""
    token_norm = saved.preprocess.token_norm
    if token_norm != "none":
        raise UserError(
            f"this SAE reads tokens after '{token_norm}', which divides each token by a number of its own; {library} "
            "has no place for that and weights cannot hold it. Export it with --to saelens, which has, or train with "
            "a preprocessing that is the same for all tokens (raw, a centering, zscore, pca)"
        )
