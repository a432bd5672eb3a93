"""Certified arithmetic: what a method would return without rounding, between proven bounds.

`trace` writes down the ATen program of one run, `play` plays it in any `arithmetic`, `enclosure` in balls
that shrink until they are small enough, `decompose` puts a measured result and the true gradients beside.
"""

from bench.certified.arithmetic import Balls, Floats
from bench.certified.decompose import certify
from bench.certified.enclosure import BOUND, Enclosure, enclose
from bench.certified.play import Player
from bench.certified.program import NotCertifiedError, Program
from bench.certified.trace import trace

__all__ = [
    "BOUND",
    "Balls",
    "Enclosure",
    "Floats",
    "NotCertifiedError",
    "Player",
    "Program",
    "certify",
    "enclose",
    "trace",
]
