"""The one engine for everything that acts across denoising steps."""
