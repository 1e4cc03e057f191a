"""Images: files, VQ tokens, patches and autoencoder latents."""

#: Side of the square of pixels that one code of the image tokenizer covers.
CODE_SIZE = 4
