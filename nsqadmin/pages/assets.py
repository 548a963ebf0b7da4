"""The files under /static that the pages name: each link carries a piece of the file's hash, so that a browser may
keep a file for ever and still has the new one after an upgrade.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["STATIC", "asset_versions"]

STATIC = Path(__file__).resolve().parent.parent / "static"


def asset_versions(folder: Path = STATIC) -> dict[str, str]:
    """Give, for each file of the folder, the first ten hex digits of its SHA-256."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:10]
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
