"""Studies on Slurm: what a cluster offers (`profile`), what it does (`queue`), one of your own (`cluster`)."""
