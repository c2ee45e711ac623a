"""Stage `lab`: experiments on synthetic activations, whose features, mean and severity are known."""

KINDS = {
    "init_death": "saelib.lab.init_death",
    "gradient": "saelib.lab.gradient",
    "training": "saelib.lab.training",
    "recovery": "saelib.lab.recovery",
    "remedies": "saelib.lab.remedies",
}
"""Kind of an experiment -> the module whose function `run_cells` computes its cells."""
