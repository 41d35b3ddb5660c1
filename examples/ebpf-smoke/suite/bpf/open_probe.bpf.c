/* Copyright: the Mayfly authors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reports each opened file: runs at the return of do_filp_open() in the kernel (fexit, a BPF trampoline) and sends one
 * event through a ring buffer. Every BPF_CORE_READ() is relocated by libbpf to the field offsets of the running kernel.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "open_probe.h"

char LICENSE[] SEC("license") = "GPL";

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 256 * 1024);
} events SEC(".maps");

SEC("fexit/do_filp_open")
int BPF_PROG(open_exit, int dfd, struct filename *name)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    struct open_event *event;
    __u64 returned;

    if (bpf_get_func_ret(ctx, &returned))
        return 0;
    event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event)
        return 0;

    event->pid = bpf_get_current_pid_tgid() >> 32;
    event->parent = BPF_CORE_READ(task, real_parent, tgid);
    event->static_prio = BPF_CORE_READ(task, static_prio);
    /* A struct file, or in its place a small negative number: the error. */
    event->error = (__s64)returned >= -4095 && (__s64)returned < 0 ? returned : 0;
    event->inode = event->error ? 0 : BPF_CORE_READ((struct file *)returned, f_inode, i_ino);
    bpf_get_current_comm(event->comm, sizeof(event->comm));
    bpf_probe_read_kernel_str(event->path, sizeof(event->path), BPF_CORE_READ(name, name));
    bpf_ringbuf_submit(event, 0);
    return 0;
}
