"""What several algorithms share; no algorithm itself, and no folder that the registry looks into."""
