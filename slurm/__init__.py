"""Studies on a Slurm cluster: what it is (`profile`), what it is doing (`queue`), and one of your own (`cluster`)."""
