"""The command `nsqadmin`."""

from __future__ import annotations

import sys

import trio

from nsqadmin.daemon import Daemon, StartError, banner
from nsqadmin.options import load, validate
from nsqkit.descriptors import raise_descriptor_limit
from nsqkit.logging import configure, fatal_line
from nsqkit.options import OptionError

__all__ = ["main"]


def main() -> None:
    """Run until SIGTERM or SIGINT. Exit code 0 after an orderly stop, 1 when it cannot start or go on."""
    options = load(sys.argv[1:])
    try:
        validate(options)
        configure(options.log_level, options.log_prefix, log_format=options.log_format)
        raise_descriptor_limit()
        banner()
        trio.run(Daemon(options).run)
    except (StartError, OptionError) as error:
        _fatal(f"failed to instantiate nsqadmin - {error}", options.log_format)
    except OSError as error:
        _fatal(f"failed to go on - {error}", options.log_format)


def _fatal(reason: str, log_format: str) -> None:
    sys.stderr.write(fatal_line("[nsqadmin] ", reason, log_format))
    sys.exit(1)


if __name__ == "__main__":
    main()
