"""The only save and load: safetensors and JSON in a folder with a manifest."""
