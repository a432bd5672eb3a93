"""Outer optimizers: what moves theta along the meta-gradient, by `torch.optim`."""

from methods.outer.adam import Adam
from methods.outer.rmsprop import RMSprop
from methods.outer.sgd import SGD

__all__ = ["SGD", "Adam", "RMSprop"]
