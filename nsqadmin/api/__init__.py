"""The JSON API: what consoles and scripts read, and the actions."""

from nsqadmin.api.routes import add_api

__all__ = ["add_api"]
