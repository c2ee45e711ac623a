"""Predictions of how many latents are dead at initialization (stage `theory`), and of how long recovery takes."""
