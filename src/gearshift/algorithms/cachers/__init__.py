"""Skip work across denoising steps."""
