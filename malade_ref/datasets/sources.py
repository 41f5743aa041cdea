"""The public data sets: what they are called, where they come from, and how to tell that they arrived whole."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple


@functools.cache
def load_sources() -> Mapping[str, Any]:
    """The public data sets by name: the content of ``sources.toml``, described in ``data/README.md``."""
    text = resources.files("malade_ref.datasets").joinpath("sources.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


class Standing(NamedTuple):
    """What files are, beside those that were published.

    Attributes
    ----------
    kind : {"published", "part of the published", "not the published", "not known"}
        What they are.
    why : str
        By what one sees it; empty if it is clear.
    """

    kind: str
    why: str

    def sentence(self, name: str, title: str) -> str:
        """What a report says of it.

        Parameters
        ----------
        name, title : str
            What the published data set is called, short and long.
        """
        return {
            "published": f"{title}; checked, it is the published data.",
            "part of the published": f"{title}; checked, it is a part of the published data.",
            "not known": f"{title}; not checked against the publication: {self.why}.",
        }.get(self.kind, f"{name}: NOT the published data, {self.why}.")


def standing(published: Mapping[str, str], found: Mapping[str, str]) -> Standing:
    """Compare files with those that were published.

    Parameters
    ----------
    published, found : mapping of str to str
        SHA-256 of each file by its name.

    Returns
    -------
    Standing
        Part of the published data if files are missing and the others are right.
    """
    other = [name for name in found if published.get(name) != found[name]]
    if other:
        return Standing("not the published", f"the SHA-256 of {', '.join(other)} differs")
    missing = [name for name in published if name not in found]
    if missing:
        return Standing("part of the published", f"{', '.join(missing)} missing")
    return Standing("published", "")
