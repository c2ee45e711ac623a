"""The sections, in order of worth: should time run out, the first ones have been measured."""

SECTIONS = {
    "correctness": "Errors of training steps in float32 on the device, against float64 autograd on a CPU.",
    "one_program": "Errors of the steps of sweeps that train as one program, against float64 on a CPU.",
    "ceilings": "What the device reaches: copies, and matrix products of a training step's sizes.",
    "steps": "A training step against the eager script, other libraries and its floor, one encoder matrix product.",
    "waits": "How often a training step waits for the host, and what it takes.",
    "evaluation": "Measuring SAEs on held-out rows: errors against float64 on a CPU, and times.",
    "loader": "Getting a training batch from a store.",
    "outliers": "Training steps as the mean grows: the same few latents are then selected by every token.",
    "sweeps": "Learning rates trained on the same batches, one after another and as one program.",
    "toys": "Small SAEs, whose steps are mostly launches.",
    "pieces": "Routes for the parts of a step.",
    "init_death": "Deaths at initialization counted on the device, against the same count on a CPU.",
    "statistics": "Statistics of activations on the device, against those of a CPU, and the passes alone.",
    "extraction": "A language model's forward pass, alone and through saelib's source to the host's memory.",
    "one_pass": "Statistics and deaths from rows that an extraction keeps on the device, and from its stores.",
}
"""Name of the module -> what it measures."""
