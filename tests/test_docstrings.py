"""Every public function, class and method says what it takes, gives back and complains about.

numpydoc's validation judges the sections (which of its checks: ``[tool.numpydoc_validation]`` in pyproject.toml).
A method that overrides a documented one need not repeat its docstring, and one of at most one parameter may say
everything in its summary. A thing is said once:

- A docstring that says "As `other`" or "those of `other`" need not describe what the other one's describes (its
  parameters by name, what comes back, what is raised); it says how it differs.
- Which errors a function raises stands in its section Raises or, of InputError alone, in the docstring of its module or
  of the package that the module is in.
- A section that says nothing ("If x is not as expected", "Nothing") is left out.
- A section Returns is left out where the summary says it and the annotation names the type: not where the annotation
  says nothing (Any, object), nor where several things come back; of an array, the docstring says a shape.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import Validator, validate

import malade_gpu
import malade_ref

ROOT = Path(__file__).resolve().parents[1]
CHECKS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["numpydoc_validation"]["checks"]

# Modules in which a summary is enough: `checks`, whose sentences "Raise unless ..." say everything, and the
# inner parts of `ops.conv`, which speak in the terms of its docstring; the bodies of kernels, which speak in those of
# their ops; and the devices, whose protocol says it once for all of them.
BRIEF = ("malade_ref.checks", "malade_ref.ops.geometry", "malade_ref.ops.conv_banded", "malade_ref.ops.conv_phases")
BRIEF += ("malade_ref.ops.conv_windows",)
BRIEF += ("malade_gpu.kernels", "malade_gpu.device")
SECTIONS = ("PR", "RT", "YD")

# Errors that a caller may meet; others are a programmer's mistakes, or say themselves what they are.
NEED_A_SECTION = {"InputError", "FormatError", "KernelError", "LockedError", "RuntimeError"}

# Annotations of results that say nothing.
UNCLEAR = ("<class 'inspect._empty'>", "Any", "object")
ARRAY = re.compile(r"\b(?:Array|Floats|NDArray|Labels|Pixels)\b")

# What a section says that says nothing.
EMPTY = re.compile(r"If [\w ,]+ (?:is|are) not as expected\.|Nothing\.")

# "As `malade_ref.ops.conv2d`", "as of `Layer.forward`", "The others are those of `pgd`."
POINTER = re.compile(r"(?:\b[Aa]s (?:of |in )?|\bthose of )`([\w.]+)`")


class Documented(Validator):  # type: ignore[misc]
    """A docstring next to the code it describes, as numpydoc sees it."""

    def __init__(self, obj_name: Any) -> None:
        super().__init__(get_doc_object(obj_name, config={"show_class_members": False}))

    @property
    def doc_all_parameters(self) -> Any:
        """Documented parameters; the fields of a record count, whether called parameters or attributes."""
        record = hasattr(self.obj, "_fields") or hasattr(self.obj, "__dataclass_fields__")
        sections = ["Parameters", "Other Parameters", *(["Attributes"] if record else [])]
        return self._doc_parameters(sections)

    @property
    def signature_parameters(self) -> Any:
        """Parameters of the code; none for a property, or for a class that inherits its constructor."""
        inherits = inspect.isclass(self.obj) and not {"__init__", "__new__"} & set(vars(self.obj))
        if inherits or isinstance(self.obj, property) or getattr(self.obj, "_is_protocol", False):
            return ()
        return super().signature_parameters


def errors_raised(function: Callable[..., Any]) -> set[str]:
    """Names of the exceptions in ``raise`` statements of a function's own body, without functions nested in it."""
    found = set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    nodes: list[ast.AST] = list(ast.iter_child_nodes(tree.body[0]))
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(raised).rpartition(".")[2])
        nodes += ast.iter_child_nodes(node)
    return found & NEED_A_SECTION


def says_input_error(module_name: str) -> bool:
    """Whether the docstring of a module, or of the package that it is in, speaks of InputError."""
    places = {module_name, module_name.rpartition(".")[0]} - {""}
    return any("`InputError`" in (importlib.import_module(place).__doc__ or "") for place in places)


def returns_speak_for_themselves(obj: Any) -> bool:
    """Whether an annotation says what comes back: no array without a shape in the docstring, and not several things."""
    annotation = str(inspect.signature(obj).return_annotation) if inspect.isroutine(obj) else ""
    several = annotation.startswith("tuple[") and not annotation.endswith(", ...]")
    if not annotation or several or annotation.startswith(UNCLEAR):
        return False
    return not ARRAY.search(annotation) or "shape" in (obj.__doc__ or "")


def named(name: str, module: str, qualname: str) -> Any:
    """What a docstring calls by a name: a full one, or one known in its class, its module or a package's front door."""
    owner = qualname.rpartition(".")[0]
    places = [
        *([f"{module}.{owner}"] if owner else []),
        module,
        "",
        "malade_ref",
        "malade_ref.ops",
        "malade_ref.attacks",
    ]
    for place in places:
        try:
            return pkgutil.resolve_name(f"{place}.{name}" if place else name)
        except (ImportError, AttributeError, ValueError):
            continue
    return None


def said_elsewhere(obj: Any, seen: tuple[Any, ...] = ()) -> tuple[set[str], bool, bool]:
    """Parameters that the docstrings an object points to describe, and whether they say what is returned and raised."""
    code = obj.fget if isinstance(obj, property) else inspect.unwrap(obj)
    parameters: set[str] = set()
    returns = raises = False
    for name in POINTER.findall(inspect.getdoc(obj) or ""):
        other = named(name, code.__module__, code.__qualname__)
        if other is None or other is code or other in seen or not (inspect.isroutine(other) or inspect.isclass(other)):
            continue
        doc = get_doc_object(other, config={"show_class_members": False})
        parameters |= {word.strip() for entry in doc["Parameters"] for word in entry.name.split(",")}
        more, more_returns, more_raises = said_elsewhere(other, (*seen, code))
        parameters |= more
        returns |= bool(doc["Returns"] or doc["Yields"]) or more_returns or returns_speak_for_themselves(other)
        raises |= bool(doc["Raises"]) or more_raises or says_input_error(other.__module__)
    return parameters, returns, raises


def still_missing(check: str, text: str, obj: Any, parameters: set[str], returns: bool) -> bool:
    """Whether a complaint of numpydoc's stands, once what is said elsewhere counts."""
    if check == "PR01":  # "Parameters {'x', 'y'} not documented"
        missing = set(re.findall(r"'(\w+)'", text))
        return not missing <= parameters
    return not (check in ("RT01", "YD01") and (returns or returns_speak_for_themselves(obj)))


def is_small_method(obj: Any) -> bool:
    """Whether an object is a method of at most one parameter with a docstring of one paragraph."""
    if not inspect.isfunction(obj) or "." not in obj.__qualname__ or "\n\n" in (obj.__doc__ or ""):
        return False
    return len([name for name in inspect.signature(obj).parameters if name not in ("self", "cls")]) <= 1


def complaints(name: str, obj: Any) -> list[str]:
    """What the docstring of a class, a function, a method or a property lacks."""
    code = obj.fget if isinstance(obj, property) else obj
    brief = code.__module__.startswith(BRIEF)
    parameters, returns, raises = said_elsewhere(obj)
    found = [
        f"{name}: {check} {text}"
        for check, text in validate(obj, validator_cls=Documented)["errors"]
        if check in CHECKS
        and not ((brief or is_small_method(code)) and check.startswith(SECTIONS))
        and still_missing(check, text, obj, parameters, returns)
    ]
    if brief or not obj.__doc__:
        return found
    doc = get_doc_object(obj, config={"show_class_members": False})
    for section in ("Returns", "Yields", "Raises"):
        if any(EMPTY.fullmatch(" ".join(entry.desc)) for entry in doc[section]):
            found.append(f"{name}: section {section} says nothing; leave it out")
    if inspect.isclass(obj):
        constructors = [vars(obj)[key] for key in ("__init__", "__post_init__") if key in vars(obj)]
        functions = [f for f in constructors if inspect.isfunction(f) and f.__module__ == obj.__module__]
        if hasattr(obj, "__dataclass_fields__"):  # whose __init__ is generated and has no source
            functions = [f for f in functions if f.__name__ == "__post_init__"]
    else:
        functions = [code]
    documented = " ".join(entry.type for entry in doc["Raises"])
    missing = (
        {name for function in functions for name in errors_raised(function)} if "Error" not in documented else set()
    )
    if raises or says_input_error(code.__module__):
        missing -= {"InputError"}
    found += [f"{name}: raises {error}, but has no section Raises that says when" for error in sorted(missing)]
    return found


def public_objects(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public functions and classes that a module defines, and the public methods of these classes."""
    for name, obj in vars(module).items():
        if name.startswith("_") or getattr(obj, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(inspect.unwrap(obj)):
            yield f"{module.__name__}.{name}", inspect.unwrap(obj)
        elif inspect.isclass(obj):
            yield f"{module.__name__}.{name}", obj
            yield from ((f"{module.__name__}.{name}.{key}", method) for key, method in public_methods(obj))


def public_methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, without those that leave a base's docstring in force."""
    for name, member in vars(cls).items():
        inherited = any(getattr(vars(base).get(name), "__doc__", None) for base in cls.__mro__[1:])
        if name.startswith("_") or (inherited and not member.__doc__):
            continue
        method = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        method = property(method.func) if isinstance(method, functools.cached_property) else method
        if inspect.isfunction(method) or isinstance(method, property):
            yield name, method


def modules_of(package: ModuleType) -> Iterator[str]:
    """Names of a package's modules, its own first."""
    yield package.__name__
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not info.name.endswith("__main__"):
            yield info.name


@pytest.mark.parametrize("module_name", [*modules_of(malade_ref), *modules_of(malade_gpu)])
def test_docstrings(module_name: str) -> None:
    module = importlib.import_module(module_name)
    found = [] if module.__doc__ else [f"{module_name}: no docstring"]
    for name, obj in public_objects(module):
        found += complaints(name, obj)
    assert not found, "\n" + "\n".join(found)


# The same rules on planted docstrings ----------------------------------------------------------------------

PLANTED = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class InputError(ValueError):
    """Bad input."""


def good(x, y, *, eps=0.3):
    """The sum of two numbers.

    Parameters
    ----------
    x, y : float
        The terms.
    eps : float
        Not used.

    Returns
    -------
    float
        Their sum.

    Raises
    ------
    InputError
        If they are equal.
    """
    if x == y:
        raise InputError("x: equal to y")
    return x + y


def no_docstring(x):
    return x


def no_full_stop():
    """A summary without an end"""


def missing_parameter(x, y):
    """A function.

    Parameters
    ----------
    x : float
        Described.
    """


def unknown_parameter(x):
    """A function.

    Parameters
    ----------
    x : float
        Described.
    z : float
        Described.
    """


def undescribed_parameter(x):
    """A function.

    Parameters
    ----------
    x : float
    """


def no_returns(x):
    """A function.

    Parameters
    ----------
    x : float
        Described.
    """
    return x


def no_returns_of_several(x):
    """A function.

    Parameters
    ----------
    x : float
        Described.
    """
    return x, x


def no_returns_but_a_type(x) -> float:
    """Twice the number.

    Parameters
    ----------
    x : float
        Described.
    """
    return 2 * x


def no_returns_of_any(x) -> Any:
    """Twice the number.

    Parameters
    ----------
    x : float
        Described.
    """
    return 2 * x


def no_returns_of_an_array(x) -> Array:
    """Twice the numbers.

    Parameters
    ----------
    x : array
        Described.
    """
    return 2 * x


def no_returns_but_a_shape(x) -> Array:
    """Twice the numbers.

    Parameters
    ----------
    x : array of shape (n,)
        Described.
    """
    return 2 * x


def no_raises():
    """A function."""
    if good:
        raise InputError("bad")


def raises_nothing_said(x):
    """A function.

    Parameters
    ----------
    x : float
        Described.

    Raises
    ------
    InputError
        If x is not as expected.
    """
    if x:
        raise InputError("bad")


def no_raises_of_another():
    """A function."""
    raise RuntimeError("bad")


def pointer(x, y, *, eps=0.3):
    """As `good`, but faster."""
    if x == y:
        raise InputError("x: equal to y")
    return x + y


def pointer_and_more(x, y, *, eps=0.3, speed=1):
    """The sum, at a speed.

    Parameters
    ----------
    speed : int
        How fast.

    Returns
    -------
    float
        The sum.

    Notes
    -----
    The others are those of `good`.
    """
    return pointer(x, y)


def pointer_to_nothing(x):
    """As `better`."""


def pointer_that_leaves_out(x, y, z):
    """As `good`, with a third term."""
    return x + y + z


class Good(NamedTuple):
    """A record.

    Attributes
    ----------
    x : float
        Described.
    """

    x: float


class MissingAttribute(NamedTuple):
    """A record.

    Attributes
    ----------
    x : float
        Described.
    """

    x: float
    y: float


@dataclass
class NoRaisesInDataclass:
    """A record.

    Attributes
    ----------
    x : float
        Described.
    """

    x: float

    def __post_init__(self):
        raise InputError("bad")


class Methods:
    """A class.

    Parameters
    ----------
    x : float
        Described.
    """

    def __init__(self, x):
        self.x = x

    @property
    def good(self):
        """A property."""
        return self.x

    @property
    def bad_property(self):
        return self.x

    def bad_method(self, y, z):
        """A method."""

    @classmethod
    def bad_class_method(cls, y, z):
        """A class method."""

    def small_method(self, y):
        """What is done with y."""
        return y

    def bad_small_method(self, y):
        """What is done with y."""
        raise InputError("bad")

    def overridden(self, y, z):
        """A method.

        Parameters
        ----------
        y, z : float
            Described.
        """


class Overrides(Methods):
    """A class that inherits its constructor."""

    def overridden(self, y, z):
        pass

    def not_overridden(self):
        pass

    def _private(self, y):
        pass
'''

EXPECTED = {
    "no_docstring": "GL08",
    "no_full_stop": "SS03",
    "missing_parameter": "PR01",
    "unknown_parameter": "PR02",
    "undescribed_parameter": "PR07",
    "no_returns": "RT01",
    "no_returns_of_several": "RT01",
    "no_returns_of_any": "RT01",
    "no_returns_of_an_array": "RT01",
    "no_raises_of_another": "raises RuntimeError",
    "raises_nothing_said": "section Raises says nothing",
    "no_raises": "no section Raises",
    "pointer_to_nothing": "PR01",
    "pointer_that_leaves_out": "PR01",
    "MissingAttribute": "PR01",
    "NoRaisesInDataclass": "no section Raises",
    "Methods.bad_property": "GL08",
    "Methods.bad_method": "PR01",
    "Methods.bad_class_method": "PR01",
    "Methods.bad_small_method": "no section Raises",
    "Overrides.not_overridden": "GL08",
}


def test_planted_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_docstrings.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("planted_docstrings")
    found = {name: complaints(name, obj) for name, obj in public_objects(module)}
    found = {name.removeprefix("planted_docstrings."): texts for name, texts in found.items() if texts}
    assert found.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        assert len(found[name]) == 1, found[name]
        assert expected in found[name][0]


def test_a_module_speaks_of_input_error_for_its_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_errors.py").write_text('"""A bad number raises `InputError`."""\n' + PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("planted_errors")
    found = [text for name, obj in public_objects(module) for text in complaints(name, obj) if "no section" in text]
    assert found == [
        "planted_errors.no_raises_of_another: raises RuntimeError, but has no section Raises that says when"
    ]
