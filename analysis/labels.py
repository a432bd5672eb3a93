"""Display labels of methods and problems, made from their descriptions; for people, never for identity."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis.units import plain

PRETTY = {
    "adam": "Adam",
    "armijo": "Armijo",
    "binomial-maml": "MAML, binomial",
    "cg": "CG",
    "cifar_fs": "CIFAR-FS",
    "closed_form": "closed form",
    "conjugate_gradient": "CG",
    "contrastive": "contrastive rule",
    "exact": "exact",
    "finite_difference": "finite difference",
    "fixed_point": "fixed point",
    "fo-b-maml": "FO-B-MAML",
    "fomaml": "FOMAML",
    "fomaml-jax": "FOMAML, JAX",
    "fomaml-cpp": "FOMAML, C++",
    "forward-gradient": "forward gradient",
    "gauss_newton": "Gauss-Newton",
    "gmres": "GMRES",
    "gradient_descent": "gradient descent",
    "hessian_free": "Hessian-free",
    "imaml": "iMAML",
    "imaml-authors-code": "iMAML, authors' code",
    "imaml-betty": "iMAML, betty",
    "imaml-cpp": "iMAML, C++",
    "imaml-hypergrad": "iMAML, hypergrad",
    "imaml-jax": "iMAML, JAX",
    "imaml-jaxopt": "iMAML, jaxopt",
    "imaml-no-prox": "iMAML, no prox",
    "imaml-torchopt": "iMAML, TorchOpt",
    "imaml-warm-start": "iMAML, warm start",
    "lbfgs": "L-BFGS",
    "maml": "MAML",
    "maml-cpp": "MAML, C++",
    "maml-higher": "MAML, higher",
    "maml-jax": "MAML, JAX",
    "maml-jaxopt": "MAML, jaxopt",
    "maml-learn2learn": "MAML, learn2learn",
    "maml-torchopt": "MAML, TorchOpt",
    "mini_imagenet": "mini-ImageNet",
    "minres": "MINRES",
    "mixed_mode": "mixed mode",
    "nesterov": "Nesterov",
    "neumann": "Neumann",
    "normal_cg": "normal CG",
    "nystrom": "Nyström",
    "one-step": "one-step",
    "preconditioned_conjugate_gradient": "PCG",
    "reptile": "Reptile",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
    "shine": "SHINE",
    "truncated-maml": "MAML, truncated",
}
STEPS = ("inner.steps", "steps")  # an axis of the figures, never part of a label
WRAPPERS = {"in_dtype": "{dtype}", "gradients_in": "gradients {dtype}"}  # of a part, in another precision
PARTS = {"inner": "inner", "linear": "solve", "curvature": "products"}
SAID = (*(f"{kind}.precision" for kind in PARTS), "linear.dots")  # by `method`
_ABSENT = object()


def unwrapped(description: dict[str, Any]) -> dict[str, Any]:
    """A description whose parts in another precision stand for themselves, with a field `precision`."""
    found = {k: unwrapped(v) if isinstance(v, dict) else v for k, v in description.items()}
    if (form := WRAPPERS.get(str(found.get("name")))) is None:
        return found
    (part,) = (v for k, v in found.items() if k in PARTS)
    words = [form.format(**found)]
    if found.get("loss_scale", 1) != 1 or found.get("dynamic"):
        words.append(f"scale {'dynamic' if found.get('dynamic') else plain(found['loss_scale'])}")
    return part | {"precision": ", ".join([*words, *filter(None, [part.get("precision")])])}


def pretty(name: str) -> str:
    """A plugin's or option's name for people; unknown names keep their hyphens."""
    return PRETTY.get(name, name.replace("_", " "))


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested description as dotted keys; lists become text such as "[40, 40]"."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            flat[prefix + key] = "[" + ", ".join(plain(v) for v in value) + "]"
        else:
            flat[prefix + key] = value
    return flat


def method(description: dict[str, Any]) -> str:
    """The base label: "MAML, adjoint", "FOMAML", "iMAML, CG 5", "iMAML Hessian-free, CG 5"."""
    name = description["name"]
    parts = [pretty(name)]
    inner, linear, curvature = (_part(description.get(k)) for k in ("inner", "linear", "curvature"))
    if name == "imaml" and inner.get("name") == "hessian_free":
        parts = ["iMAML Hessian-free"]
    if "backward" in description:
        parts.append(pretty(str(description["backward"])))
    if linear and name != "imaml-authors-code":
        size = linear.get("iterations", linear.get("rank", description.get("iterations")))
        parts.append(pretty(linear["name"]) + (f" {size}" if size is not None else ""))
    if curvature and curvature["name"] != "exact":
        parts.append(pretty(curvature["name"]))
    for kind, part in zip(PARTS, (inner, linear, curvature), strict=True):
        if "precision" in part:
            parts.append(f"{PARTS[kind]} {part['precision']}")
    if linear.get("dots"):
        parts.append(f"dots {linear['dots']}")
    return ", ".join(parts)


def _part(value: Any) -> dict[str, Any]:
    """A part's table; the name of a library's own solver stands for one."""
    return {"name": value} if isinstance(value, str) else value or {}


def problem(description: dict[str, Any]) -> str:
    """The base label of a problem: its name, and of a classification problem its ways and shots."""
    name, ways, shots = pretty(description["name"]), description.get("ways"), description.get("shots")
    return name if ways is None or shots is None else f"{name}, {ways}-way {shots}-shot"


def distinguish(base: list[str], flat: list[dict[str, Any]], within: Iterable[Any]) -> list[str]:
    """Make labels tell apart what differs: append the fields in which descriptions of one label differ.

    ``base`` are the labels, ``flat`` the flattened descriptions, ``within`` says which of them meet in one
    panel (the problem): a learning rate that belongs to the problem is no part of the method's label. The
    number of inner steps is an axis and never appended. No two descriptions that differ in anything else get
    the same label within a panel: where the short words do not tell them apart, full names and digits do.
    """
    within = list(within)
    differing: dict[str, list[str]] = {}
    groups: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for label, description, group in zip(base, flat, within, strict=True):
        groups.setdefault((label, group), []).append(description)
    for (label, _), descriptions in groups.items():
        known = differing.setdefault(label, [])
        known += [key for key in _varying(descriptions) if key not in known]
    named = [
        ", ".join([label, *(_phrase(k, v) for k, v in _given(one, differing[label]))])
        for label, one in zip(base, flat, strict=True)
    ]
    return _apart(named, flat, within)


def _given(one: dict[str, Any], keys: list[str]) -> list[tuple[str, Any]]:
    """Those of ``keys`` that have a value, by as much of their names as tells them apart among ``keys``."""
    short = [key.rpartition(".")[2] for key in keys]
    names = [
        key if short.count(last) > 1 and last != "name" else last
        for key, last in zip(keys, short, strict=True)
    ]
    return [(name, one[key]) for name, key in zip(names, keys, strict=True) if one.get(key) is not None]


def _apart(labels: list[str], flat: list[dict[str, Any]], within: list[Any]) -> list[str]:
    """The labels; those that different descriptions still share within a panel with all that differs."""
    groups: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for label, one, group in zip(labels, flat, within, strict=True):
        groups.setdefault((label, group), []).append(one)
    differing = {}
    for name, together in groups.items():
        keys = dict.fromkeys(key for one in together for key in one if key not in STEPS)
        differing[name] = [key for key in keys if len({repr(one.get(key)) for one in together}) > 1]
    full = []
    for label, one, group in zip(labels, flat, within, strict=True):
        differ = differing[label, group]
        words = (f"{key} {one[key]!r}" if one.get(key) is not None else f"no {key}" for key in differ)
        full.append(", ".join([label, *words]))
    return full


def mixed_inner(labels: list[str], flat: list[dict[str, Any]], within: Iterable[Any]) -> list[str]:
    """Name the inner solver of methods that do not use plain gradient descent, where several meet."""
    seen: dict[Any, set[str]] = {}
    groups = list(within)
    for one, group in zip(flat, groups, strict=True):
        if "inner.name" in one:
            seen.setdefault(group, set()).add(one["inner.name"])
    mixed = {name for names in seen.values() if len(names) > 1 for name in names} - {"gradient_descent"}
    named = []
    for label, one in zip(labels, flat, strict=True):
        inner = pretty(one["inner.name"]) if one.get("inner.name") in mixed else ""
        named.append(f"{label}, {inner}" if inner and inner not in label else label)
    return named


def _varying(descriptions: list[dict[str, Any]]) -> list[str]:
    keys = list(dict.fromkeys(key for one in descriptions for key in one))
    return [key for key in keys if key not in (*STEPS, *SAID) and _varies(key, descriptions)]


def _varies(key: str, descriptions: list[dict[str, Any]]) -> bool:
    # A field is compared among parts of the same name only: Adam's beta is no difference to gradient descent.
    parent = key.rpartition(".")[0] + ".name" if "." in key else "name"
    values: dict[Any, set[Any]] = {}
    for one in descriptions:
        if key.endswith("name"):
            if key in one:
                values.setdefault(None, set()).add(one[key])
        elif parent in one:  # a field at a default that descriptions leave out is another value
            values.setdefault(one[parent], set()).add(one.get(key, _ABSENT))
    return any(len(group) > 1 for group in values.values())


def _phrase(key: str, value: Any) -> str:
    name = key.replace(".", " ")
    if key.rpartition(".")[2] == "name":
        return pretty(str(value))
    if isinstance(value, bool):
        return ("" if value else "no ") + pretty(name)
    if isinstance(value, str) and not value.startswith("["):
        return pretty(value)
    return f"{pretty(name)} {plain(value)}"


def devices(table: pd.DataFrame) -> pd.Series:
    """The column ``device``, with the GPU's name where cells ran on several, so that nothing mixes them."""
    if "environment.gpu" not in table or table["environment.gpu"].nunique() < 2:
        return table["device"]
    named = table["device"] + " (" + table["environment.gpu"].astype("string") + ")"
    return named.fillna(table["device"])
