"""Closed-form predictions of how many latents are dead at initialization (stage `theory`)."""
