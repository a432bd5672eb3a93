"""What is compared: one method, one file. Importing this package registers every method and part."""

from methods import curvature, inner, libraries, linear, outer
from methods.binomial_maml import BinomialMAML
from methods.contrastive import Contrastive
from methods.fo_b_maml import FOBMAML
from methods.fomaml import FOMAML
from methods.forward_gradient import ForwardGradient
from methods.imaml import IMAML
from methods.imaml_authors_code import IMAMLAuthorsCode
from methods.imaml_no_prox import IMAMLNoProx
from methods.imaml_warm_start import IMAMLWarmStart
from methods.maml import MAML
from methods.maml_line_search import MAMLLineSearch
from methods.one_step import OneStep
from methods.reptile import Reptile
from methods.shine import SHINE
from methods.truncated_maml import TruncatedMAML

__all__ = [
    "FOBMAML",
    "FOMAML",
    "IMAML",
    "MAML",
    "SHINE",
    "BinomialMAML",
    "Contrastive",
    "ForwardGradient",
    "IMAMLAuthorsCode",
    "IMAMLNoProx",
    "IMAMLWarmStart",
    "MAMLLineSearch",
    "OneStep",
    "Reptile",
    "TruncatedMAML",
    "curvature",
    "inner",
    "libraries",
    "linear",
    "outer",
]
