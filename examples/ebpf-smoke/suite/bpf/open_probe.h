/* Copyright: the Mayfly authors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What travels from the kernel to the loader. Plain C types: one side has vmlinux.h, the other the C library.
 */
#ifndef OPEN_PROBE_H
#define OPEN_PROBE_H

#define COMM_SIZE 16
#define PATH_SIZE 128

struct open_event {
    unsigned long long inode; /* of the file that was opened, 0 if none was */
    int pid;
    int parent;
    int static_prio;
    int error; /* 0 or a negative errno */
    char comm[COMM_SIZE];
    char path[PATH_SIZE];
};

#endif
