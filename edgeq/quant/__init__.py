"""Which numbers? Grids, ranges, the student and its training."""
