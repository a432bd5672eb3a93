"""Distributions of tasks. Importing this package registers every problem and network."""

from bench.problems.cifar_fs import CifarFS
from bench.problems.glyphs import Glyphs
from bench.problems.learned_rate import LearnedRate
from bench.problems.linear_regression import LinearRegression
from bench.problems.mini_imagenet import MiniImageNet
from bench.problems.networks import MLP, Conv4
from bench.problems.omniglot import Omniglot
from bench.problems.sinusoid import Sinusoid

__all__ = [
    "MLP",
    "CifarFS",
    "Conv4",
    "Glyphs",
    "LearnedRate",
    "LinearRegression",
    "MiniImageNet",
    "Omniglot",
    "Sinusoid",
]
