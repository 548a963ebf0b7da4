"""A Debian with systemd and Python for the tests of this folder, made once and kept in a cache.

The cache is `~/.cache/nsq-trio-tests` (or below `$XDG_CACHE_HOME`). It holds, each under a name that is a
digest of what it was made from:

- `debian-DIGEST/`: the root of a minimal Debian, made by mmdebstrap (some 20 s, 200 MB);
- `wheels-DIGEST/`: what `pip install ./shared .` of this project needs there, so that nothing in a test needs the
  network.

Nothing in it is ever changed; whatever uses a root puts a layer of its own over it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.timing import patience

__all__ = ["ROOT", "cached", "debian_root", "missing_tools", "wheels"]

ROOT: Final = Path(__file__).resolve().parents[2]
"""Of the project."""
SUITE: Final = "bookworm"
PYTHON: Final = "3.11"
"""The one of that suite."""
PACKAGES: Final = ("dbus", "iproute2", "make", "python3", "python3-venv", "systemd")
LEFT_OUT: Final = ("doc", "info", "locale", "man")
"""Of /usr/share."""
MANYLINUX: Final = ("2014", "_2_17", "_2_28", "_2_34")


def missing_tools(*tools: str) -> str:
    """Why a test that needs root, namespaces and these programs cannot run here; empty when it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can do this"
    missing = [tool for tool in ("unshare", *tools) if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else _why_no_namespaces()


def _why_no_namespaces() -> str:
    """Root in a container often may not make any."""
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True,
        text=True,
        timeout=patience(20),
        check=False,
    )
    return f"no namespaces can be made here: {tried.stderr.strip()[:200]}" if tried.returncode else ""


def debian_root() -> Path:
    """The root of a Debian, only to be read."""
    recipe = f"{SUITE} {platform.machine()} {PACKAGES} {LEFT_OUT}"
    return cached("debian", recipe, _make_debian)


def wheels() -> Path:
    """A folder with a wheel of everything that installing this project takes."""
    requirements = _requirements()
    recipe = f"{PYTHON} {platform.machine()} {requirements}"
    return cached("wheels", recipe, lambda folder: _download(requirements, folder))


def cached(kind: str, recipe: str, make: Callable[[Path], None]) -> Path:
    """A folder from the cache; `make` fills a new one when there is none for this recipe yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nsq-trio-tests"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{kind}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with _locked(cache / f"{kind}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix="making-", dir=cache) as scratch:
                made = Path(scratch) / "made"
                made.mkdir()
                make(made)
                made.rename(folder)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_debian(folder: Path) -> None:
    tar = folder.with_suffix(".tar")
    exclude = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    include = f"--include={','.join(PACKAGES)}"
    _run("mmdebstrap", "--quiet", "--variant=minbase", *exclude, include, SUITE, str(tar))
    _run("tar", "-C", str(folder), "--numeric-owner", "-xf", str(tar))
    tar.unlink()
    # Its name in the images of the Python project.
    (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")


def _requirements() -> list[str]:
    needed: list[str] = runpy.run_path(str(ROOT / "deploy/requirements.py"))["requirements"](ROOT)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    # pip looks at the markers for the Python that runs it, and newer ones do not need this.
    older = ["typing-extensions"]
    return sorted([*needed, *build, *older])


def _download(requirements: list[str], folder: Path) -> None:
    platforms = [f"--platform=manylinux{tag}_{platform.machine()}" for tag in MANYLINUX]
    _run(
        *(
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--dest",
            str(folder),
        ),
        *("--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms),
        *requirements,
    )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(600), check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stderr[-4000:]}"
