"""Preprocessings, the maps that activations go through before an SAE reads them: fit, apply, choose, recommend."""
