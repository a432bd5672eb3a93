"""``python -m bench.cli`` is ``metabench``, for where the script is not on the path."""

from bench.cli import main

main()
