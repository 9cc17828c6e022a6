"""Adapters for diffusion models: LoRAs of their denoisers, learnt from captioned pictures."""
