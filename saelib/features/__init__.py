"""Pages of latents: what each latent of an SAE fires on, in pages that open from disk."""
