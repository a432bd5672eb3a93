"""The command line called from tests, and a small study for it to work on."""

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

import pytest

from bench import cli

TINY = """
question = "Does the command line work?"
seeds = 2
n_tasks = 2
dtype = "float64"
passes = ["accuracy"]
problem = {name = "linear_regression", dim = 4, support = 3, query = 3}
inner = {name = "gradient_descent", steps = [1, 2], learning_rate = 0.05}

[[method]]
name = "fomaml"
"""


@dataclass(frozen=True)
class Result:
    """What a command wrote, and its exit code; ``raw`` is stdout undecoded."""

    code: int
    out: str
    err: str
    raw: bytes

    def json(self) -> Any:
        return json.loads(self.out)


def metabench(*arguments: object) -> Result:
    """Run the command line in this process; nothing but an exit code may come out of it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit:
        cli.main([str(argument) for argument in arguments])
    raw, errors = (stream.buffer.getvalue() for stream in (out, err))
    return Result(int(exit.value.code or 0), raw.decode(errors="replace"), errors.decode(), raw)
