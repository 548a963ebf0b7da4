"""The command `nsqd`."""

from __future__ import annotations

import os
import sys

import trio

from nsqd.daemon import Daemon, StartError, banner
from nsqd.importing import ImportRefused, prepare_start, run_import
from nsqd.log.records import NewerFormat
from nsqd.log.store import ForeignDataPath
from nsqd.options import NsqdOptions, load, validate
from nsqkit.access.command import run_token_command
from nsqkit.logging import configure
from nsqkit.service.descriptors import raise_descriptor_limit
from nsqkit.service.runner import fatal_errors
from nsqkit.standard_streams import finish_output

__all__ = ["main"]


def main() -> None:
    """Run until SIGTERM or SIGINT. Exit code 0 after an orderly stop, 1 after an error at the start or later.

    With `--import` import another data path instead, and exit; for its exit codes see `run_import`.

    `nsqd token ...` manages tokens instead. It is no program of its own, because every machine with a daemon of this
    project has `nsqd`, whose flags are no words.
    """
    if sys.argv[1:2] == ["token"]:
        sys.exit(run_token_command(sys.argv[2:]))
    options = load(sys.argv[1:])
    with fatal_errors("nsqd", options.log_format, StartError, ForeignDataPath, ImportRefused, NewerFormat):
        raise_descriptor_limit()
        if options.import_path:
            sys.exit(_import(options))
        daemon = Daemon(options)
        validate(options)
        prepare_start(options.data_path or os.getcwd(), options.node_id)
        configure(options.log_level, options.log_prefix, log_format=options.log_format)
        daemon.load_certificates()
        banner(options)
        trio.run(daemon.run)
        if daemon.starts_anew:
            finish_output()
            os.execv(sys.executable, [sys.executable, "-m", "nsqd", *sys.argv[1:]])  # noqa: S606


def _import(options: NsqdOptions) -> int:
    validate(options)
    configure(options.log_level, options.log_prefix, log_format=options.log_format)
    banner(options)
    return run_import(options)


if __name__ == "__main__":
    main()
