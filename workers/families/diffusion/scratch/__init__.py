"""Text-to-image diffusion from scratch: autoencoder, text encoder and denoiser in turn."""
