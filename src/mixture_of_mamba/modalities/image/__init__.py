"""Images: files, VQ tokens, patches and autoencoder latents."""
