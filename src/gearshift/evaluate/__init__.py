"""How close, how fast, how big: what a recipe gives and what it costs, measured and shown."""
