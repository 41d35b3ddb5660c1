#!/bin/sh
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Prints what this machine has for eBPF, one fact a line: "<section> <key>=<value>". Changes nothing.
# It is run whole by one remote command: each connection to an emulated guest costs a second or two.
# A tool is there if it runs: on some distributions bpftool is a wrapper that wants one package more for each kernel.

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
unset ID VERSION_ID

say() {
    printf '%s %s=%s\n' "$1" "$2" "$3"
}

tool() { # <name in the report> <command…>: its version is the first number with a dot that it prints
    name=$1
    shift
    if ! command -v "$1" > /dev/null; then
        say missing "$name" "$1 is not installed"
    elif ! text=$("$@" 2>&1 < /dev/null); then
        say missing "$name" "$1 is installed but does not run: $(printf '%s' "$text" | tr '\n' ' ' | cut -c1-200)"
    else
        say versions "$name" "$(printf '%s\n' "$text" | sed -n 's/^[^0-9]*\([0-9][0-9]*\.[0-9.]*[0-9]\).*/\1/p' | head -n 1)"
    fi
}

libbpf() { # the library to link with and the headers, seen by the compiler that will want them
    program='#include <bpf/libbpf_version.h>
int version(void) { return LIBBPF_MAJOR_VERSION; }'
    library=
    for file in /usr/lib/*-linux-*/libbpf.so /usr/lib64/libbpf.so /usr/lib/libbpf.so; do
        [ -e "$file" ] && library=$(readlink -f "$file") && break
    done
    if [ -z "$library" ]; then
        say missing libbpf "libbpf.so, from the development package, is not installed"
    elif ! text=$(printf '%s\n' "$program" | clang -target bpf -O2 -x c -c -o /dev/null - 2>&1); then
        say missing libbpf "clang -target bpf cannot build against it: $(printf '%s' "$text" | tr '\n' ' ' | cut -c1-200)"
    else
        say versions libbpf "${library##*.so.}"
    fi
}

release=$(uname -r)
if [ -r /etc/os-release ]; then
    # shellcheck source=/dev/null
    . /etc/os-release
fi
say machine distribution "${ID:-unknown}-${VERSION_ID:-unknown}"

tool clang clang --version
tool bpftool bpftool version
tool bpftrace bpftrace --version
if command -v opensnoop-libbpf > /dev/null; then # so called in Debian 13
    tool libbpf_tools opensnoop-libbpf --version
else
    tool libbpf_tools opensnoop --version
fi
libbpf

say kernel release "$release"
say kernel version "$(uname -v)"
say kernel machine "$(uname -m)"
say kernel clocksource "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource 2> /dev/null)"
say kernel lockdown "$(sed -n 's/.*\[\(.*\)\].*/\1/p' /sys/kernel/security/lockdown 2> /dev/null)"
headers=$(readlink -f "/lib/modules/$release/build" 2> /dev/null)
[ -d "$headers" ] || headers=
say kernel headers "$headers"
say machine btf "$([ -r /sys/kernel/btf/vmlinux ] && echo yes || echo no)"
say machine lsm "$(cat /sys/kernel/security/lsm 2> /dev/null)"

wanted='(HAVE_E)?BPF[A-Z_]*|DEBUG_INFO_BTF[A-Z_]*|CGROUP_BPF|NET_(CLS|ACT)_BPF|LWTUNNEL_BPF|XDP_SOCKETS|[KU]PROBES|[KU]PROBE_EVENTS'
wanted="$wanted|PERF_EVENTS|FUNCTION_TRACER|FTRACE_SYSCALLS|DYNAMIC_FTRACE(_WITH_DIRECT_CALLS)?|IKCONFIG|IKHEADERS"
if [ -r /proc/config.gz ]; then
    gzip -dc /proc/config.gz
elif [ -r "/boot/config-$release" ]; then
    cat "/boot/config-$release"
elif [ -r "/lib/modules/$release/config" ]; then
    cat "/lib/modules/$release/config"
fi | grep -E "^CONFIG_($wanted)=" | sed 's/^/config /'

seen=" "
while read -r _device directory type _options; do
    case $type in
    bpf | tracefs | debugfs | cgroup2)
        case $seen in
        *" $type "*) ;;
        *) say mounts "$type" "$directory" && seen="$seen$type " ;;
        esac
        ;;
    esac
done < /proc/self/mounts

for name in kernel/unprivileged_bpf_disabled kernel/perf_event_paranoid kernel/kptr_restrict net/core/bpf_jit_enable; do
    [ -r "/proc/sys/$name" ] && say sysctls "${name##*/}" "$(cat "/proc/sys/$name")"
done
exit 0
