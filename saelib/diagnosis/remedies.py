"""The lines that apply a remedy in the library that somebody trains with."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saelib.diagnosis.result import Diagnosis

LIBRARIES = {
    "torch": "plain torch",
    "saelib": "saelib's pipeline",
    "saelens": "SAELens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
    "saev": "saev",
}
"""Name of an option -> what people call the library."""

_FIND = "found = saelib.diagnose({source}, d_sae={d_sae}, k={k})"

_CENTER = {
    "torch": """\
import saelib, torch
{find}
with torch.no_grad():  # before the first step, in an SAE that encodes x - b_dec
    sae.b_dec.copy_(torch.from_numpy(found.center))""",
    "saelib": """\
# in the config of the suite:
train:
  variants:
    centered: {{preprocessing: center_median}}""",
}
_WHITEN = {
    "torch": """\
import saelib, torch
{find}
z = torch.from_numpy(found.preprocessing.apply(x.numpy()))  # train the SAE on z instead of x
x_hat = found.preprocessing.restore(z_hat.numpy(), x.numpy())  # back to the model's own activations""",
    "saelib": """\
# in the config of the suite:
train:
  variants:
    whitened: {{preprocessing: pca}}""",
}
_WITH_LIBRARY = """\
import saelib
from saelib.integrations.{library} import log_death, start
{find}
start({started}, found)  # {when}: {what}
log_death({started}, report=print)  # dead latents by cause, while it trains"""
_WHAT = {"mean_center": "b_dec moves to the geometric median", "pca_whiten": "the weights start in whitened space"}
_STARTED = {"dictionary_learning": "trainer"}
"""Library -> what is started, if it is not the SAE."""
_WHEN = {"sparsify": "before trainer.fit()", "saev": "right after make_saes"}
"""Library -> the moment, if it is not just before the first step."""


def lines_for(found: "Diagnosis", library: str) -> str:
    """Gives Python (or YAML) to paste, for the recommended remedy; nothing where nothing needs to be done.

    Args:
        found: The diagnosis.
        library: A key of `LIBRARIES`.
    """
    if found.recommendation == "none":
        return ""
    templates = _CENTER if found.recommendation == "mean_center" else _WHITEN
    source = repr(found.name) if Path(found.name.partition("::")[0]).exists() else "acts"
    find = _FIND.format(source=source, d_sae=found.d_sae, k=found.k)
    template = templates.get(library, _WITH_LIBRARY)
    return template.format(
        find=find,
        library=library,
        started=_STARTED.get(library, "sae"),
        when=_WHEN.get(library, "before the first step"),
        what=_WHAT[found.recommendation],
    )
