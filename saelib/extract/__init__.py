"""Stage `extract`: writes the activations of a model's layers, from one forward pass, into stores."""
