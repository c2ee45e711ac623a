"""Start SAEs of other libraries from our center or whitening, and log death by cause while they train.

One module per library: `saelens`, `dictionary_learning`, `sparsify` and `saev`. None imports its library; they work on
the objects that you give them. Each has `start(sae, found)`, to be called once before the first step, and
`log_death(sae)`. `docs/i-train-with.md` shows them in use.
"""
