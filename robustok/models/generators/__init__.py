"""Generators of latents."""
