"""The JSON API: reading, and the actions. Its paths are in `nsqadmin.site`."""

from nsqadmin.api.action_handlers import ActionHandlers
from nsqadmin.api.body_download import BodyDownload
from nsqadmin.api.read_handlers import ReadHandlers

__all__ = ["ActionHandlers", "BodyDownload", "ReadHandlers"]
