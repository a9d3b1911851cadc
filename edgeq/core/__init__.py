"""What every room may use: errors, specs, numerics, files."""
