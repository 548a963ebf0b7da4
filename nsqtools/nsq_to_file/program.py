"""The command nsq_to_file: the search for topics, and one archive for each."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from nsqkit.client import ClientOptions, Consumer
from nsqkit.discovery import Discovery, DiscoveryFailed
from nsqkit.logging import configure, get_logger
from nsqkit.options import SECOND, OptionError
from nsqkit.wire import is_valid_name
from nsqtools.common import handle_signals, refuse, run
from nsqtools.nsq_to_file.archive import Archive
from nsqtools.nsq_to_file.files import FileSettings, TopicFiles, make_folders
from nsqtools.nsq_to_file.names import format_time, host_identifier, name_template
from nsqtools.nsq_to_file.options import PROGRAM, ToFileFlags, load, validate
from nsqtools.progress import Figures, Progress

__all__ = ["main"]

RETRY_S: Final = 5.0
"""Time between requests while no registry has responded."""
LAST_SYNC_S: Final = 5.0
"""Additional time for the last sync when a stop has used up its own."""

_log = get_logger(__name__)


def main() -> None:
    """Write until a signal: exit code 0. 1: a file cannot be written, or a flag is invalid."""
    flags = load(sys.argv[1:])
    configure(flags.log_level, flags.log_prefix)
    try:
        options = validate(flags)
        settings = prepare_folders(flags)
    except OptionError as error:
        refuse(error)
    program = Program(flags, options, settings)
    with Progress(PROGRAM, program.figures, flags.log_level, flags.log_prefix) as progress:
        run(partial(program.run, progress))


def prepare_folders(flags: ToFileFlags) -> FileSettings:
    """Create the folders. `OptionError` if that fails, or if files cannot be moved between them.

    A folder that every user may write to, as the default is, gets a warning.
    """
    output_dir = Path(flags.output_dir).absolute()
    work_dir = Path(flags.work_dir).absolute() if flags.moves else output_dir
    try:
        for folder in (output_dir, work_dir):
            make_folders(folder)
            if folder.stat().st_mode & stat.S_IWOTH:
                _log.warning(
                    "every user can rename and remove files in %s; give a folder of your own with --output-dir "
                    "and --work-dir",
                    folder,
                )
        if output_dir.stat().st_dev != work_dir.stat().st_dev:
            raise OptionError("--work-dir and --output-dir must be on the same file system")
    except OSError as error:
        raise OptionError(f"failed to make {error.filename} - {error.strerror}") from None
    return FileSettings(
        output_dir=output_dir,
        work_dir=work_dir,
        revisions=flags.needs_revision,
        gzip_level=flags.gzip_level if flags.gzip else 0,
        rotate_size=flags.rotate_size,
        rotate_interval=flags.rotate_interval / SECOND,
        skip_empty=flags.skip_empty_files,
    )


@attrs.define(eq=False)
class Program:
    """The running program."""

    flags: ToFileFlags
    options: ClientOptions
    settings: FileSettings
    _archives: dict[str, Archive] = attrs.field(factory=dict)
    _pattern: re.Pattern[str] = attrs.field(init=False)
    _finding: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """The search for topics."""

    def __attrs_post_init__(self) -> None:
        self._pattern = re.compile(self.flags.topic_pattern)

    async def run(self, progress: Progress) -> None:
        async with trio.open_nursery() as nursery:
            abort = nursery.cancel_scope.cancel
            grace = self.options.stop_timeout + LAST_SYNC_S
            await nursery.start(partial(handle_signals, self._stop, abort, self._hang_up, grace=grace))
            nursery.start_soon(progress.run)
            async with trio.open_nursery() as archives:
                with self._finding:
                    await (self._given_topics if self.flags.topics else self._find_topics)(archives)
            abort()

    def figures(self) -> Figures:
        """For the progress line; done messages are those on disk."""
        archives = self._archives.values()
        return Figures(
            sum(archive.files.synced for archive in archives),
            sum(archive.consumer.stats().in_flight for archive in archives),
        )

    def _start(self, topics: list[str], archives: trio.Nursery) -> None:
        """Start archives for the topics that match and have none yet."""
        if self._finding.cancel_called:  # a signal arrived during the request
            return
        for topic in topics:
            if topic not in self._archives and self._pattern.search(topic) and is_valid_name(topic):
                _log.info("writing topic %s", topic)
                self._archives[topic] = self._make_archive(topic)
                archives.start_soon(self._archives[topic].run)

    def _stop(self) -> None:
        self._finding.cancel()
        for archive in self._archives.values():
            archive.stop()

    def _hang_up(self) -> None:
        for archive in self._archives.values():
            archive.hang_up()

    async def _given_topics(self, archives: trio.Nursery) -> None:
        self._start(self.flags.topics, archives)
        if not self._archives:
            _log.warning("none of the topics matches --topic-pattern: nothing to do")
            await trio.sleep_forever()

    async def _find_topics(self, archives: trio.Nursery) -> None:
        """Query the registries at once and then every `topic_refresh`. A topic that disappears keeps its archive."""
        flags = self.flags
        timeout_ns = flags.http_client_connect_timeout + flags.http_client_request_timeout
        registries = Discovery(
            flags.lookupd_http_addresses,
            timeout=timeout_ns / SECOND,
            bearer=self.options.auth_secret if self.options.skip_lookupd_authorization else "",
            tls=self.options.tls_context,
        )
        refresh = flags.topic_refresh / SECOND
        while True:
            try:
                self._start(await registries.topics(), archives)
                wait = refresh
            except DiscoveryFailed as error:
                _log.error("failed to query the topics - %s", error)
                wait = min(refresh, RETRY_S)
            await trio.sleep(wait)

    def _make_archive(self, topic: str) -> Archive:
        flags = self.flags
        consumer = Consumer(
            topic,
            flags.channel,
            nsqd_tcp_addresses=flags.nsqd_tcp_addresses,
            lookupd_http_addresses=flags.lookupd_http_addresses,
            options=self.options,
        )
        template = name_template(
            flags.filename_format,
            topic=topic,
            host=host_identifier(flags.host_identifier, socket.gethostname()),
            pid=os.getpid(),
            gzip=flags.gzip,
        )

        def template_at(now: float) -> str:
            return template.replace("<DATETIME>", format_time(flags.datetime_format, now)).lstrip("/")

        return Archive(consumer, TopicFiles(self.settings, template_at), flags.sync_interval / SECOND)
