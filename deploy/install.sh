#!/bin/sh
# `make install` and `make uninstall` run this script from the project's folder.
#
#     PREFIX=/usr/local DESTDIR= SYSCONFDIR=/etc UNITDIR=... PYTHON=python3 deploy/install.sh install|uninstall
#
# install: a virtual environment of its own under PREFIX/lib/nsq-trio, links to its commands in PREFIX/bin, the systemd
# units, and configuration in SYSCONFDIR/nsq, readable for root alone. Existing configuration files are never changed. Nothing is started.
# Installing again upgrades.
# uninstall: removes all of it except for the configuration and the data.
# DESTDIR is prepended to every path that is written, but does not appear in any file: for packages.
set -eu

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
SYSCONFDIR=${SYSCONFDIR:-/etc}
case $PREFIX in # the default search path of systemd
    /usr | /usr/local) UNITDIR=${UNITDIR:-$PREFIX/lib/systemd/system} ;;
    *) UNITDIR=${UNITDIR:-$SYSCONFDIR/systemd/system} ;;
esac
PYTHON=${PYTHON:-python3}

home=$PREFIX/lib/nsq-trio
units=$(cd deploy/systemd && echo *.service)
commands=$("$PYTHON" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["scripts"])')

do_install() {
    "$PYTHON" -m venv "$DESTDIR$home"
    "$DESTDIR$home/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade ./shared .
    [ -z "$DESTDIR" ] || forget_destdir
    mkdir -p "$DESTDIR$PREFIX/bin" "$DESTDIR$UNITDIR" "$DESTDIR$SYSCONFDIR/nsq"
    for command in $commands; do
        ln -sf "../lib/nsq-trio/bin/$command" "$DESTDIR$PREFIX/bin/$command"
    done
    for unit in $units; do
        sed "s|/usr/local/bin/|$PREFIX/bin/|; s|/etc/nsq/|$SYSCONFDIR/nsq/|g" "deploy/systemd/$unit" >"$DESTDIR$UNITDIR/$unit"
        chmod 644 "$DESTDIR$UNITDIR/$unit"
    done
    for config in deploy/config/*.toml; do
        target=$DESTDIR$SYSCONFDIR/nsq/${config##*/}
        [ -e "$target" ] || { cp "$config" "$target" && chmod 640 "$target"; }
    done
    say_what_next
}

# The environment was created under DESTDIR and will be used without it.
forget_destdir() {
    rm -f "$DESTDIR$home"/bin/[aA]ctivate*
    grep -rlI "$DESTDIR$home" "$DESTDIR$home/bin" "$DESTDIR$home/pyvenv.cfg" | while read -r file; do
        sed -i "s|$DESTDIR$home|$home|g" "$file"
    done
    "$PYTHON" -m compileall -q -f -s "$DESTDIR" "$DESTDIR$home/lib"
}

say_what_next() {
    cat <<END

Installed under $PREFIX, configuration in $SYSCONFDIR/nsq. On a machine with systemd, next:

    systemctl daemon-reload
    systemctl enable --now nsqlookupd nsqd nsqadmin
    systemctl status nsqd
    curl http://127.0.0.1:4151/ping

This is a cluster of one; the console is at http://127.0.0.1:4171/. On more machines, name the nsqlookupds in
nsqd.toml and nsqadmin.toml, and set broadcast_address in nsqd.toml and nsqlookupd.toml.
END
}

do_uninstall() {
    for command in $commands; do
        link=$DESTDIR$PREFIX/bin/$command
        case $(readlink "$link" || :) in
            ../lib/nsq-trio/bin/*) rm "$link" ;;
        esac
    done
    for unit in $units; do rm -f "$DESTDIR$UNITDIR/$unit"; done
    rm -rf "$DESTDIR$home"
    echo "Left alone: $SYSCONFDIR/nsq, and what nsqd has stored (/var/lib/nsqd*)."
}

case ${1:-} in
    install | uninstall) "do_$1" ;;
    *) echo "usage: deploy/install.sh install|uninstall" >&2; exit 2 ;;
esac
