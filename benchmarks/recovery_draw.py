"""Draws the combinations of settings that test the law of `saelib recovery`: configs/lab-recovery-fresh.yaml."""

import random
from pathlib import Path
from typing import Any

from benchmarks.timing import command_line, show
from saelib.theory.recovery import LAW

FRESH = Path(__file__).parents[1] / "configs" / "lab-recovery-fresh.yaml"
SEED, COUNT = 16, 16
RANGES = {
    "gamma": (5.0, 40.0),
    "signal_scale": (0.1, 1.0),
    "learning_rate": (1e-3, 1.6e-2),
    "batch_size": (64, 1024),
    "memory": (100.0, 3000.0),
    "d_in": (25, 100),
    "d_sae": (50, 160),
    "k": (2, 10),
}
"""Each setting is drawn evenly on a logarithmic scale; whole numbers are rounded."""
TOKENS = 12e6
"""Combinations that are predicted to need more tokens until 99 % of the mean is in the bias are drawn again."""
NORM = 3.135
"""||sigma|| of activations whose signal has scale 1."""
HEAD = f"""\
# yaml-language-server: $schema=schema.json
# Trainings that test the law of `saelib recovery`, drawn at random when its constants had been fixed
# (docs/recovery.md). 'python -m benchmarks recovery_draw' writes this file, from seed {SEED}.
#
#   snakemake --configfile configs/lab-recovery-fresh.yaml --cores all
#   python -m benchmarks recovery --config configs/lab-recovery-fresh.yaml --results results-recovery-fresh \\
#     --write benchmarks/recovery_later.csv

results: results-recovery-fresh
seed: 0

experiments:
"""
ENTRY = """\
  draw_{number:02}:
    kind: recovery
    shows: "Combination {number} of {count}, drawn at random."
    data: {{gamma: {gamma}, signal_scale: {signal_scale}, d_in: {d_in}}}
    sae: {{d_sae: {d_sae}, k: {k}}}
    variants:
      adam: {{optimizer: {{kind: adam, beta2: {beta2}}}}}
    learning_rate: {learning_rate}
    batch_size: {batch_size}
    steps: 400000
    seeds: 1
"""


def main(argv: list[str]) -> None:
    parser = command_line("recovery_draw", __doc__)
    parser.add_argument("--out", type=Path, default=FRESH, metavar="FILE", help="the configuration to write")
    options = parser.parse_args(argv)
    drawn = draw(SEED, COUNT)
    text = HEAD + "\n".join(ENTRY.format(number=i + 1, count=COUNT, **one) for i, one in enumerate(drawn))
    options.out.write_text(text)
    show({"drawn": drawn}, [f"{options.out}: {COUNT} combinations"], options.json)


def draw(seed: int, count: int) -> list[dict[str, Any]]:
    """Draws combinations, with three digits, that are predicted to end soon enough."""
    rng = random.Random(seed)
    drawn: list[dict[str, Any]] = []
    while len(drawn) < count:
        one: dict[str, Any] = {
            name: float(f"{low * (high / low) ** rng.random():.3g}") for name, (low, high) in RANGES.items()
        }
        one |= {name: round(one[name]) for name in ("batch_size", "d_in", "d_sae", "k")}
        one["beta2"] = round(1 - 1 / one["memory"], 6)
        if tokens(one) < TOKENS:
            drawn.append(one)
    return drawn


def tokens(one: dict[str, Any]) -> float:
    """Returns the predicted tokens until 99 % of the mean is in the bias."""
    mean_norm = NORM * one["signal_scale"] * one["gamma"]
    return float(LAW.steps("bias_99", one | {"mean_norm": mean_norm})) * one["batch_size"]
