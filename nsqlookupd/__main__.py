"""The command `nsqlookupd`."""

from __future__ import annotations

import sys

from nsqkit.service.runner import run_daemon
from nsqlookupd.daemon import Daemon, StartError
from nsqlookupd.options import load, validate

__all__ = ["main"]


def main() -> None:
    """Run until SIGTERM or SIGINT; for the exit codes see `nsqkit.service.runner`."""
    options = load(sys.argv[1:])
    run_daemon("nsqlookupd", options, validate, Daemon, StartError)


if __name__ == "__main__":
    main()
