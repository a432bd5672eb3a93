"""Studies on Slurm: what one offers (`profile`), what it does (`queue`), and one to test on (`cluster`)."""
