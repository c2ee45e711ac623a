"""The front door: will an SAE on these activations have dead latents, why, and what should be done about it?"""
