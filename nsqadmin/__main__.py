"""The command `nsqadmin`."""

from __future__ import annotations

import sys

from nsqadmin.auth.command import run_user_command
from nsqadmin.daemon import Daemon, StartError
from nsqadmin.options import load, validate
from nsqkit.service.runner import run_daemon

__all__ = ["main"]


def main() -> None:
    """Run until SIGTERM or SIGINT; the exit codes are those of `nsqkit.service.runner`.

    `nsqadmin user ...` manages users instead. It is no flag, as no flag begins without a dash.
    """
    if sys.argv[1:2] == ["user"]:
        sys.exit(run_user_command(sys.argv[2:]))
    options = load(sys.argv[1:])
    run_daemon("nsqadmin", options, validate, Daemon, StartError)


if __name__ == "__main__":
    main()
