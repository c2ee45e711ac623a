"""dictionary_learning loads our exports, and saves dictionaries of its own as its training does."""

import json
from pathlib import Path

import torch
from common import Outputs, fill, serve
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary


def load(folder: Path, x: torch.Tensor) -> Outputs:
    dictionary, _ = load_dictionary(str(folder), "cpu")
    return dictionary.encode(x), dictionary(x)


def make(folder: Path, x: torch.Tensor) -> dict[str, Outputs]:
    d_in, d_sae, k = x.shape[1], 40, 5
    dictionaries = {
        "AutoEncoder": AutoEncoder(d_in, d_sae),
        "AutoEncoderNew": AutoEncoderNew(d_in, d_sae),
        "AutoEncoderTopK": AutoEncoderTopK(d_in, d_sae, k),
        "BatchTopKSAE": BatchTopKSAE(d_in, d_sae, k),
        "BatchTopKSAE-unmeasured": BatchTopKSAE(d_in, d_sae, k),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(d_in, d_sae, k, [10, 30]),
        "JumpReluAutoEncoder": JumpReluAutoEncoder(d_in, d_sae),
        "GatedAutoEncoder": GatedAutoEncoder(d_in, d_sae),
    }
    outputs = {}
    for name, dictionary in dictionaries.items():
        fill(dictionary, x)
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            dictionary.threshold.fill_(0.5)
        (folder / name).mkdir(parents=True)
        torch.save(dictionary.state_dict(), folder / name / "ae.pt")
        trainer = {"dict_class": type(dictionary).__name__, "activation_dim": d_in, "dict_size": d_sae, "k": k}
        (folder / name / "config.json").write_text(json.dumps({"trainer": trainer}))
        outputs[name] = (dictionary.encode(x), dictionary(x))
    return outputs


serve(load, make)
