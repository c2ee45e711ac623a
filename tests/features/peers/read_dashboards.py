"""Reads exports of latents with SAEDashboard's classes and Neuronpedia's client, and prints what they hold, as JSON.

It runs where both are installed. Usage: read_dashboards.py SAEDASHBOARD_FOLDER NEURONPEDIA_FOLDER
"""

import gzip
import json
import sys
from pathlib import Path

from neuronpedia.np_activation import Activation
from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch


def main(dashboards: Path, upload: Path) -> None:
    read = [json.loads(path.read_text()) for path in sorted(dashboards.glob("batch-*.json"))]
    batches = [NeuronpediaDashboardBatch(**batch) for batch in read]
    rows = [
        json.loads(line)
        for path in sorted(upload.glob("*/*/activations/*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    # The client allows no share below 0, which stands for the group of the strongest examples.
    random = [Activation.from_np_db_json(row | {"source": row["layer"]}) for row in rows if row["binContains"] >= 0]
    found = {
        "unchanged": [batch.to_dict() == raw for batch, raw in zip(batches, read, strict=True)],
        "latents": [latent.feature_index for batch in batches for latent in batch.features],
        "random": [[one.source, one.index, one.tokens, one.values] for one in random],
    }
    print(json.dumps(found))


main(Path(sys.argv[1]), Path(sys.argv[2]))
