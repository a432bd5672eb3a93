"""What is compared: one method, one file. Importing this package registers every method and part."""

from methods import curvature, inner, libraries, linear
from methods.fomaml import FOMAML
from methods.imaml import IMAML
from methods.imaml_authors_code import IMAMLAuthorsCode
from methods.maml import MAML
from methods.reptile import Reptile

__all__ = [
    "FOMAML",
    "IMAML",
    "MAML",
    "IMAMLAuthorsCode",
    "Reptile",
    "curvature",
    "inner",
    "libraries",
    "linear",
]
