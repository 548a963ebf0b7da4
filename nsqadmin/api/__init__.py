"""The JSON API: what consoles and scripts read, and the actions."""

from nsqadmin.api.act import Actor
from nsqadmin.api.read import Reader

__all__ = ["Actor", "Reader"]
