"""Training of the miniature model under `resources/mini`, from rendered portraits and captions.

Order: tokenizer, clip, vae, latents, unet; `export` writes the diffusers folders after any of them
and `measure` says how good they are.
"""
