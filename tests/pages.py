"""API pages from the docstrings: ``python -m tests.pages FOLDER``, with the extra ``docs``. A warning is an error."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import malade_ref

# What is run rather than called, and what the rest rests on.
LEFT_OUT = {"__main__", "cli", "examples", "experiment", "experiments", "report", "bundle", "storage", "theorem"}


def modules() -> dict[str, list[str]]:
    """Names of the modules that have a page, each with those within it, whose public names its page has."""
    found = {}
    for info in pkgutil.iter_modules(malade_ref.__path__):
        if info.name not in LEFT_OUT:
            module = importlib.import_module(f"malade_ref.{info.name}")
            inner = pkgutil.iter_modules(getattr(module, "__path__", []))
            found[module.__name__] = [f"{module.__name__}.{one.name}" for one in inner]
    return found


def say_where_tuples_are_from() -> None:
    """Tell the makers of NamedTuples their module: that is where pdoc looks for the names in annotations."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "malade_ref":
            for value in vars(module).values():
                if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
                    value.__new__.__module__ = value.__module__


def main(out: str) -> int:
    """Write the pages into a folder."""
    import pdoc

    warnings.simplefilter("error")
    found = modules()
    say_where_tuples_are_from()
    without = [f"!malade_ref.{name}" for name in sorted(LEFT_OUT)]
    without += [f"!{inner}" for names in found.values() for inner in names]
    footer = f"malade {malade_ref.__version__}"
    pdoc.render.configure(docformat="numpy", math=True, show_source=False, search=False, footer_text=footer)
    # Those that the package names are found by themselves.
    more = [name for name in found if name.rpartition(".")[2] not in malade_ref.__all__]
    pdoc.pdoc("malade_ref", *more, *without, output_directory=Path(out))
    pages = list(Path(out).rglob("*.html"))
    print(f"wrote {len(pages)} pages; the first is {Path(out, 'malade_ref.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else "usage: python -m tests.pages FOLDER")
