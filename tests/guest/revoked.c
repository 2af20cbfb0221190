// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two buffers, one read-write and one read-only, are read by 32-bit loads, over and
 * over, while the host takes them away. What a load may see: the buffer's word, or
 * zero, or a SIGBUS, and nothing but a SIGBUS after the first one.
 *
 * The file FILE-READING appears when both were read right; the program goes on until
 * both are gone and there is a file FILE-END, and then once more.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest-check.h"

#define PAGE	4096

struct target {
	const char *what;
	struct buffer buf;
	uint32_t word;
	uint64_t right, zeroes, ones, others, faults, after;
	uint32_t other;
};

/* One load of every page. */
static void pass(struct target *target)
{
	for (uint64_t at = 0; at < target->buf.size; at += PAGE) {
		uint32_t value;

		if (guarded_load((const volatile uint32_t *)(target->buf.map + at), &value)) {
			target->faults++;
			continue;
		}
		if (target->faults)
			target->after++;
		if (value == target->word) {
			target->right++;
		} else if (!value) {
			target->zeroes++;
		} else if (value == UINT32_MAX) {
			target->ones++;
		} else {
			target->others++;
			target->other = value;
		}
	}
}

static bool is_read_right(const struct target *target)
{
	return target->right == target->buf.size / PAGE;
}

static void tell(const struct target *target, report_fn *report)
{
	char name[64], value[160];
	void *map;

	snprintf(name, sizeof(name), "%s_never_another", target->what);
	snprintf(value, sizeof(value), "%llu right, %llu zero, %llu all ones, %llu others (%08x)",
		 (unsigned long long)target->right, (unsigned long long)target->zeroes,
		 (unsigned long long)target->ones, (unsigned long long)target->others,
		 target->other);
	report(name, !target->others, value, NULL);
	snprintf(name, sizeof(name), "%s_sigbus", target->what);
	snprintf(value, sizeof(value), "%llu times, %llu loads succeeded after the first",
		 (unsigned long long)target->faults, (unsigned long long)target->after);
	report(name, target->faults && !target->after, value, NULL);

	snprintf(name, sizeof(name), "%s_no_mmap", target->what);
	map = mmap(NULL, target->buf.size, PROT_READ, MAP_SHARED, target->buf.fd, 0);
	report(name, map == MAP_FAILED && errno == EIO, errno_name(errno), NULL);
	snprintf(name, sizeof(name), "%s_no_sync", target->what);
	errno = -buffer_sync(&target->buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	report(name, errno == EIO, errno_name(errno), NULL);
}

static int start(struct target *target, int dev, const char *name, const char *word)
{
	target->word = strtoul(word, NULL, 16);
	return buffer_open(dev, name, target->buf.writable, &target->buf);
}

int revoked(int dev, char **args, report_fn *report)
{
	struct target dynamic = { .what = "dynamic", .buf.writable = true };
	struct target fixed = { .what = "static" };
	bool reading = false, last = false;
	int err = start(&dynamic, dev, args[0], args[1]);

	if (!err)
		err = start(&fixed, dev, args[2], args[3]);
	if (err)
		return err;
	for (;;) {
		pass(&dynamic);
		pass(&fixed);
		if (!reading && is_read_right(&dynamic) && is_read_right(&fixed)) {
			reading = true;
			close(open(args[4], O_CREAT | O_WRONLY, 0644));
		}
		if (last)
			break;
		last = dynamic.faults && fixed.faults && !access(args[5], F_OK);
	}
	report("read_right", reading, reading ? "both" : "no", NULL);
	tell(&dynamic, report);
	tell(&fixed, report);
	return 0;
}
