// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Faults of a kernel, on demand: what is written to /proc/mayfly_faults happens to whoever writes it.
 *
 * Not by parameters of the module: one that dies while it is loaded leaves a lock behind, and so does one that dies in a parameter.
 */
#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/proc_fs.h>
#include <linux/string.h>
#include <linux/uaccess.h>

/* Far more than two seconds, which is what the watchdog waits for at a threshold of one. */
#define MAYFLY_SPIN_MS 6000

static noinline void mayfly_fault_warn(void)
{
	WARN_ON(1);
}

static noinline void mayfly_fault_bug(void)
{
	BUG();
}

static noinline void mayfly_fault_oops(void)
{
	WRITE_ONCE(*(int *)8, 1);
}

static noinline void mayfly_fault_lockup(void)
{
	preempt_disable();
	mdelay(MAYFLY_SPIN_MS);
	preempt_enable();
}

static ssize_t mayfly_write(struct file *file, const char __user *from, size_t size, loff_t *offset)
{
	char word[16] = "";

	if (size >= sizeof(word))
		return -EINVAL;
	if (copy_from_user(word, from, size))
		return -EFAULT;
	strim(word);
	if (!strcmp(word, "warn"))
		mayfly_fault_warn();
	else if (!strcmp(word, "bug"))
		mayfly_fault_bug();
	else if (!strcmp(word, "oops"))
		mayfly_fault_oops();
	else if (!strcmp(word, "lockup"))
		mayfly_fault_lockup();
	else
		return -EINVAL;
	return size;
}

static const struct proc_ops mayfly_ops = {
	.proc_write = mayfly_write,
};

static int __init mayfly_init(void)
{
	return proc_create("mayfly_faults", 0200, NULL, &mayfly_ops) ? 0 : -ENOMEM;
}

static void __exit mayfly_exit(void)
{
	remove_proc_entry("mayfly_faults", NULL);
}

module_init(mayfly_init);
module_exit(mayfly_exit);
MODULE_DESCRIPTION("Faults of a kernel, on demand");
MODULE_LICENSE("GPL");
