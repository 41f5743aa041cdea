"""The networks that come with the repository are whole, described, and small."""

from __future__ import annotations

import json

from malade_ref import load
from malade_ref.published import FOLDER, PREFIX, SUMS, published_networks

MOST = 4 << 20  # bytes, all files together


def test_published_files() -> None:
    known = published_networks()
    files = {path.name for path in FOLDER.glob("*")} - {"README.md", SUMS}
    expected = {f"{name}.{suffix}" for name in known for suffix in ("h5", "md", "json")}
    assert files == expected
    assert sum(path.stat().st_size for path in FOLDER.glob("*")) <= MOST
    for name, sha256 in known.items():
        network = load(PREFIX + name)
        card = (FOLDER / f"{name}.md").read_text()
        record = json.loads((FOLDER / f"{name}.json").read_text())
        assert record["about"]["sha256"] == sha256
        assert sha256 in card
        assert network.fingerprint() == record["about"]["fingerprint"]
        assert network.dtype == "float32"
