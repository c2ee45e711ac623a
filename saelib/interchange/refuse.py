"""Refuse to export an SAE whose token norm most formats cannot express."""

from saelib.errors import UserError
from saelib.sae.file import SavedSAE


def refuse_token_norm(saved: SavedSAE, library: str) -> None:
    """Raise `UserError` if tokens are normalized one by one: weights cannot hold a factor that differs by token."""
    token_norm = saved.preprocess.token_norm
    if token_norm != "none":
        raise UserError(
            f"this SAE reads tokens after '{token_norm}', which divides each token by a number of its own; {library} "
            "has no setting for that, and weights cannot express it. Export it with --to saelens, which has one, or "
            "train with a preprocessing that is the same for all tokens (raw, a centering, zscore, pca)"
        )
