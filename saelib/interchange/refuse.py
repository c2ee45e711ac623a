"""Refuse to export an SAE of which a format cannot express a part."""

from saelib.errors import UserError
from saelib.sae.file import SavedSAE


def refuse_token_norm(saved: SavedSAE, library: str) -> None:
    """Raises `UserError` if tokens are normalized one by one: weights cannot hold a factor that differs by token."""
    token_norm = saved.preprocess.token_norm
    if token_norm != "none":
        raise UserError(
            f"this SAE reads tokens after '{token_norm}', which divides each token by a number of its own; {library} "
            "has no setting for that, and weights cannot express it. Export it with --to saelens, which has one, or "
            "train with a preprocessing that is the same for all tokens (raw, a centering, zscore, pca)"
        )


def refuse_bypass(saved: SavedSAE, library: str) -> None:
    """Raises `UserError` if a linear map next to the latents takes part in the reconstruction."""
    if saved.sae.bypass_in is not None:
        raise UserError(
            f"this SAE adds a linear bypass to its reconstruction, for which {library} has no place; train without "
            "`bypass` to export"
        )
