"""What is done to activations before an SAE reads them: fitted, applied, chosen, recommended."""
