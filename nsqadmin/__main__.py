"""The command `nsqadmin`."""

from __future__ import annotations

import sys

from nsqadmin.daemon import Daemon, StartError
from nsqadmin.options import load, validate
from nsqkit.service.runner import run_daemon

__all__ = ["main"]


def main() -> None:
    """Run until SIGTERM or SIGINT; the exit codes are those of `nsqkit.service.runner`."""
    options = load(sys.argv[1:])
    run_daemon("nsqadmin", options, validate, Daemon, StartError)


if __name__ == "__main__":
    main()
