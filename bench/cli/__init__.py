"""The command line, the one place that joins `bench` with `methods` and `analysis`.

`app` has the verbs with their options and help; every other module is one verb or a part that several share.
"""

from bench.cli.app import main

__all__ = ["main"]
