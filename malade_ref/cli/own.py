"""A user's own model, from the command line: a file, or a function of the user's that gives it.

A file is read as data, and nothing in it is executed: networks of malade (HDF5, or ``published:NAME``), and ONNX, which
onnxruntime computes. ``module:function`` is the user's own code: it is imported from the working directory or from
where Python finds it, and called, because the user asked for it.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.checkpoint import load
from malade_ref.checks import InputError, printable
from malade_ref.cli.console import numbers
from malade_ref.defence import MALADE
from malade_ref.experiment.judging import opened_model
from malade_ref.interop.wrap import Wrapped
from malade_ref.network import Network
from malade_ref.published import PREFIX
from malade_ref.storage.files import one_line

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".pickle", ".keras", ".joblib", ".bin")
HELP = (
    "the classifier: a network of malade (.h5, from malade train or a bundle; published:NAME), an ONNX file, or "
    "MODULE:FUNCTION, your own code, which is imported from the working directory and called without arguments: it "
    "gives a network, a torch.nn.Module, a function of images (NumPy, n c h w) to logits, or what "
    "malade_ref.interop.wrap or MALADE made. Only MODULE:FUNCTION runs code; files are read as data"
)


def add_model(command: argparse.ArgumentParser) -> None:
    """Add ``--model``, and what a model of others expects.

    Parameters
    ----------
    command : argparse.ArgumentParser
        Where to.
    """
    command.add_argument("--model", required=True, metavar="FILE|MODULE:FUNCTION", help=HELP)
    scaling = command.add_argument_group("what a model of others expects and gives")
    scaling.add_argument("--mean", type=numbers, metavar="M[,M,M]", help="it takes (x - mean) / std, by channel")
    scaling.add_argument("--std", type=numbers, metavar="S[,S,S]", help="for pixels 0..255: 1/255")
    scaling.add_argument("--probabilities", action="store_true", help="it gives probabilities, not logits")
    scaling.add_argument("--layout", choices=("nchw", "nhwc", "flat"), help="axes of the images that it takes")


def open_model(arguments: argparse.Namespace, x: NDArray[np.float32], ops: ModuleType) -> Any:
    """The model that a command names.

    Parameters
    ----------
    arguments : argparse.Namespace
        With what `add_model` adds.
    x : ndarray of shape (n, c, h, w), float32
        Some images that it is to take.
    ops : module
        The backend.

    Returns
    -------
    Network or MALADE
        The model.

    Raises
    ------
    InputError
        If it cannot be had.
    """
    source = arguments.model
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in ("mean", "std", "layout")}
    settings = {name: value for name, value in settings.items() if value is not None}
    if arguments.probabilities:
        settings["probabilities"] = True
    suffix = Path(source).suffix.lower()
    if suffix == ".onnx":
        return opened_model(source, x, settings, ops=ops)
    if _FUNCTION.fullmatch(source) and not source.startswith(PREFIX) and not Path(source).exists():
        model = _called(source)
    elif suffix in _WEIGHTS:
        raise InputError(
            f"--model {printable(source, 100)}: weights alone are no model, and such files may run code; write a "
            "function that builds the model and loads them, and give it as --model MODULE:FUNCTION"
        )
    else:
        model = load(source, ops=ops)
    own = model.classifier if isinstance(model, MALADE) else model
    if isinstance(own, Network) and settings:
        named = f"--{next(iter(settings))}"
        what = (
            "what wrap made says it itself" if isinstance(own, Wrapped) else "networks of malade take pixels in [0, 1]"
        )
        raise InputError(f"{named}: {what}; leave it out")
    if isinstance(own, Network) and own.ops is not ops:
        raise InputError(f"--model {source}: gives a model of another backend than --backend {arguments.backend}")
    if isinstance(model, str) and Path(model).suffix.lower() != ".onnx":
        raise InputError(f"--model {source}: gives the text {printable(model, 60)!r}; expected a model")
    return opened_model(model, x, settings, ops=ops)


def _called(source: str) -> Any:
    """What a function of the user's gives; its errors in one line."""
    name, _, function = source.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(name)
        for part in function.split("."):
            found = getattr(found, part)
        if isinstance(found, Network | MALADE) or _is_module(found):
            return found
        if not callable(found):
            raise InputError(f"--model {source}: expected a function, got {printable(type(found).__name__, 60)}")
        model = found()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # anybody's code
        reason = printable(one_line(error), 200)
        what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        hint = "; it is called without arguments" if isinstance(error, TypeError) else ""
        hint = f"; it is looked for in {here}" if isinstance(error, ModuleNotFoundError) else hint
        raise InputError(f"--model {source}: {what}{hint}") from error
    finally:
        with suppress(ValueError):
            sys.path.remove(here)
    if model is None:
        raise InputError(f"--model {source}: gives nothing; let the function return the model")
    return model


def _is_module(found: Any) -> bool:
    """Whether it is a model of PyTorch itself, which is callable, too."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(found, torch.nn.Module)
