"""Stage `extract`: activations of a model's layers, from one forward pass, into stores."""
