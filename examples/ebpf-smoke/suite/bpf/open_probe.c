/* Copyright: the Mayfly authors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Loads and attaches open_probe.bpf.c, says so, then prints each event whose path contains the marker given as first
 * argument. One JSON object a line. Ends when its standard input is closed, so it never outlives the suite.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "open_probe.h"
#include "open_probe.skel.h"

static int print_event(void *marker, void *data, size_t size)
{
    const struct open_event *event = data;

    if (size < sizeof(*event) || !strstr(event->path, marker))
        return 0;
    printf("{\"pid\": %d, \"parent\": %d, \"static_prio\": %d, \"error\": %d, \"inode\": %llu,"
           " \"comm\": \"%.*s\", \"path\": \"%.*s\"}\n",
           event->pid, event->parent, event->static_prio, event->error, event->inode, COMM_SIZE, event->comm,
           PATH_SIZE, event->path);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    struct bpf_prog_info info = {0};
    __u32 size = sizeof(info);
    struct ring_buffer *ring;
    struct open_probe *probe;

    if (argc != 2) {
        fprintf(stderr, "usage: open_probe MARKER\n");
        return 2;
    }
    probe = open_probe__open_and_load();
    if (!probe) {
        fprintf(stderr, "open_probe: loading open_exit failed: %s\n", strerror(errno));
        return 1;
    }
    if (open_probe__attach(probe)) {
        fprintf(stderr, "open_probe: attaching open_exit to do_filp_open failed: %s\n", strerror(errno));
        return 1;
    }
    ring = ring_buffer__new(bpf_map__fd(probe->maps.events), print_event, argv[1], NULL);
    if (!ring || bpf_obj_get_info_by_fd(bpf_program__fd(probe->progs.open_exit), &info, &size)) {
        fprintf(stderr, "open_probe: setting up the ring buffer failed: %s\n", strerror(errno));
        return 1;
    }
    printf("{\"attached\": true, \"program\": %u}\n", info.id);
    fflush(stdout);

    for (;;) {
        struct pollfd ready[] = {
            {.fd = STDIN_FILENO, .events = POLLIN},
            {.fd = ring_buffer__epoll_fd(ring), .events = POLLIN},
        };

        if (poll(ready, 2, -1) < 0 && errno != EINTR)
            break;
        if (ready[1].revents)
            ring_buffer__consume(ring);
        if (ready[0].revents)
            break;
    }
    ring_buffer__free(ring);
    open_probe__destroy(probe);
    return 0;
}
