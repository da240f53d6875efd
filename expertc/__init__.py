"""expertc."""
