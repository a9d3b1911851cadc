"""Which images? Synthetic sample sets from the teacher."""
