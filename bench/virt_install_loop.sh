#!/bin/sh
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The other peer: virt-install --transient --import --cloud-init, one guest after the other.
# Usage: virt_install_loop.sh IMAGE-JSON DIRECTORY NAME...
set -eu
image=$1
work=$2/inst-files
shift 2
field() { printf '%s' "$image" | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
base=$(field path)
mkdir -m 0755 "$work"
ssh-keygen -q -t ed25519 -N '' -f "$work/id"
for name in "$@"; do
    printf 'instance-id: %s\nlocal-hostname: %s\n' "$name" "$name" >"$work/$name.meta"
    printf '#cloud-config\nssh_authorized_keys: ["%s"]\n' "$(cat "$work/id.pub")" >"$work/$name.user"
    virt-install --connect qemu:///system --name "$name" --transient --import --noautoconsole --noreboot --quiet \
        --virt-type qemu --memory 128 --vcpus 1 --machine q35 --osinfo detect=off,require=off --graphics none \
        --disk "path=$work/$name.qcow2,format=qcow2,size=20,backing_store=$base,backing_format=qcow2,bus=virtio" \
        --network network=mayfly,model=virtio --boot hd \
        --cloud-init "user-data=$work/$name.user,meta-data=$work/$name.meta"
done
