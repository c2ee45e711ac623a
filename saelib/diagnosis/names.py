"""Names of remedies and preprocessings, in JSON and as people read them."""

from typing import Literal

Remedy = Literal["none", "mean_center", "pca_whiten"]
"""Something done to activations before an SAE reads them; the least invasive comes first."""

SHOWN_AS = {
    "raw": "as they are",
    "center_mean": "mean-centered",
    "center_median": "median-centered",
    "partial_pca": "partially whitened",
    "pca": "whitened",
}
"""Preprocessing -> words for its activations, in the order in which they are shown."""

IN_JSON = {
    "raw": "raw",
    "center_mean": "mean_centered",
    "center_median": "centered",
    "partial_pca": "partially_whitened",
    "pca": "whitened",
}
"""Preprocessing -> its name in JSON. `centered` is about the geometric median."""
