"""Engines: the Protocol in `base`, a file for each dialect, and `discovery`, which registers and recognises them."""
