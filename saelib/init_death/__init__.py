"""Measure and predict how many latents of an SAE are dead before it is trained (stage `init_death`)."""
