"""The command `nsqd`."""

from __future__ import annotations

import sys

import trio

from nsqd.daemon import Daemon, StartError, banner, refuse_unsupported
from nsqd.log.records import NewerFormat
from nsqd.log.store import ForeignDataPath
from nsqd.options import load, validate
from nsqkit.descriptors import raise_descriptor_limit
from nsqkit.logging import configure, fatal_line
from nsqkit.options import OptionError

__all__ = ["main"]


def main() -> None:
    """Run until SIGTERM or SIGINT. Exit code 0 after an orderly stop, 1 when it cannot start or go on."""
    options = load(sys.argv[1:])
    try:
        raise_descriptor_limit()
        daemon = Daemon(options)
        validate(options)
        refuse_unsupported(options)
        configure(options.log_level, options.log_prefix)
        banner(options)
        trio.run(daemon.run)
    except (StartError, OptionError, ForeignDataPath, NewerFormat) as error:
        _fatal(f"failed to instantiate nsqd - {error}")
    except OSError as error:
        _fatal(f"failed to go on - {error}")


def _fatal(reason: str) -> None:
    sys.stderr.write(fatal_line("[nsqd] ", reason))
    sys.exit(1)


if __name__ == "__main__":
    main()
