"""A real Slurm on one machine, to test on. Needs nothing but Python's standard library."""
