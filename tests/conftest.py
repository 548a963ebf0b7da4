"""The options that every test folder shares.

- `--soak` runs the long tests too (those marked `soak`); without it they are skipped, with that reason.
- The markers `process`, `foreign` and `soak` are declared in `pyproject.toml`; choose with `-m`, for example
  `pytest -m "not process and not foreign"` for what needs no daemon.

Nothing here is applied behind a test's back: there are no autouse fixtures, a test names what it uses.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this project's tests to pytest's command line."""
    parser.addoption(
        "--soak", action="store_true", default=False, help="also run the tests marked soak (long)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked `soak` unless `--soak` was given."""
    if config.getoption("--soak"):
        return
    skip = pytest.mark.skip(reason="long: runs only with --soak")
    for item in items:
        if item.get_closest_marker("soak") is not None:
            item.add_marker(skip)
