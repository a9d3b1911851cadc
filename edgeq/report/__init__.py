"""Results to JSON and pictures."""
