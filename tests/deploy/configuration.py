"""The example configuration files, with some of their settings changed: as an administrator makes real ones of
them."""

from __future__ import annotations

import json
import re

from tests.deploy.base import ROOT

__all__ = ["Setting", "configuration"]

Setting = str | int | list[str]


def configuration(program: str, **settings: Setting) -> str:
    """The text of `deploy/config/PROGRAM.toml` with these options set; an option that is not in it is an error."""
    text = (ROOT / f"deploy/config/{program}.toml").read_text()
    for name, value in settings.items():
        text, count = re.subn(
            rf"(?m)^#?{name} = .*$", f"{name} = {json.dumps(value)}".replace("\\", r"\\"), text
        )
        assert count == 1, f"{name} stands {count} times in the example of {program}"
    return text
