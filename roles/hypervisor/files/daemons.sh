#!/bin/sh
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Start (or restart) libvirt's daemons on a host whose first process is not systemd, such as a container.
# Usage: daemons.sh start|restart. Prints "started NAME" for each daemon it starts.
set -eu

# A daemon runs when the process named in its pid file is it: a number alone may be another process's by now.
running() { # name pidfile
    [ -s "$2" ] && [ "$(cat "/proc/$(cat "$2")/comm" 2>/dev/null)" = "$1" ]
}

wait_until() { # seconds command...
    limit=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        limit=$((limit - 1))
        [ "$limit" -gt 0 ] || return 1
        sleep 0.1
    done
}

answers() { virsh -q -c qemu:///system version; }
gone() { ! running libvirtd /run/libvirtd.pid; }

if [ "$1" = restart ] && running libvirtd /run/libvirtd.pid; then
    kill "$(cat /run/libvirtd.pid)"
    wait_until 20 gone || { echo "libvirtd (process $(cat /run/libvirtd.pid)) does not end within 20 s" >&2; exit 1; }
fi

if ! running dbus-daemon /run/dbus/pid; then
    mkdir -p /run/dbus
    rm -f /run/dbus/pid # of a bus that is gone; the new one refuses to start beside it
    dbus-daemon --system --fork
    echo "started dbus-daemon"
fi
if ! running virtlogd /run/virtlogd.pid; then
    virtlogd -d
    echo "started virtlogd"
fi
if ! running libvirtd /run/libvirtd.pid; then
    libvirtd -d
    echo "started libvirtd"
fi
wait_until 30 answers || { echo "libvirtd was started but does not answer at qemu:///system within 30 s:" >&2; answers; }
