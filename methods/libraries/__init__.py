"""The same methods as other libraries compute them, run as they are; and in C++ for one network, by hand."""

from methods.libraries.fomaml_cpp import FOMAMLCpp
from methods.libraries.fomaml_jax import FOMAMLJAX
from methods.libraries.imaml_betty import IMAMLBetty
from methods.libraries.imaml_cpp import IMAMLCpp
from methods.libraries.imaml_hypergrad import IMAMLHypergrad
from methods.libraries.imaml_jax import IMAMLJAX
from methods.libraries.imaml_jaxopt import IMAMLJAXopt
from methods.libraries.imaml_torchopt import IMAMLTorchOpt
from methods.libraries.maml_cpp import MAMLCpp
from methods.libraries.maml_higher import MAMLHigher
from methods.libraries.maml_jax import MAMLJAX
from methods.libraries.maml_jaxopt import MAMLJAXopt
from methods.libraries.maml_learn2learn import MAMLLearn2Learn
from methods.libraries.maml_torchopt import MAMLTorchOpt

__all__ = [
    "FOMAMLJAX",
    "IMAMLJAX",
    "MAMLJAX",
    "FOMAMLCpp",
    "IMAMLBetty",
    "IMAMLCpp",
    "IMAMLHypergrad",
    "IMAMLJAXopt",
    "IMAMLTorchOpt",
    "MAMLCpp",
    "MAMLHigher",
    "MAMLJAXopt",
    "MAMLLearn2Learn",
    "MAMLTorchOpt",
]
