/* Copyright: the Mayfly authors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Counts packets in a map. A map look-up may find nothing, so the verifier wants the answer compared with NULL before
 * it is used. Built with -DFORGET_THE_CHECK the comparison is left out, and the kernel must refuse the program.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} packets SEC(".maps");

SEC("xdp")
int count_packet(struct xdp_md *context)
{
    __u32 key = 0;
    __u64 *count = bpf_map_lookup_elem(&packets, &key);

#ifndef FORGET_THE_CHECK
    if (!count)
        return XDP_ABORTED;
#endif
    __sync_fetch_and_add(count, 1);
    return XDP_DROP;
}
