"""A real Slurm on one machine, to test on: ``python3 -m slurm.cluster up``. Needs only Python's standard library."""
