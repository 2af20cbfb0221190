// SPDX-License-Identifier: GPL-2.0-only
/* Calls that must fail, and what they must leave behind: nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest-check.h"

static report_fn *report;
static void *report_arg;

/* What a call did: 0 or an errno. */
static int outcome(long result)
{
	return result < 0 ? errno : 0;
}

static void expect(const char *name, int got, int want)
{
	report(name, got == want, errno_name(got), report_arg);
}

static void expect_either(const char *name, int got, int want, int or)
{
	report(name, got == want || got == or, errno_name(got), report_arg);
}

static struct virtio_dmabuf_ioc_open named(const char *name, uint32_t flags)
{
	struct virtio_dmabuf_ioc_open arg = { .flags = flags };

	memcpy(arg.name, name, strnlen(name, NAME_LEN));
	return arg;
}

static int try_open(int dev, struct virtio_dmabuf_ioc_open arg)
{
	int got = outcome(ioctl(dev, VIRTIO_DMABUF_IOC_OPEN, &arg));

	if (!got)
		close(arg.fd);
	return got;
}

static void open_arguments(int dev)
{
	struct virtio_dmabuf_ioc_open arg;
	char full[NAME_LEN + 1];

	memset(full, 'n', NAME_LEN);
	full[NAME_LEN] = 0;
	expect("open_access_mode_3", try_open(dev, named("no-such", 3)), EINVAL);
	expect("open_unknown_flag", try_open(dev, named("no-such", O_NONBLOCK)), EINVAL);
	expect("open_empty_name", try_open(dev, named("", O_RDONLY)), EINVAL);
	expect("open_illegal_name", try_open(dev, named("no such", O_RDONLY)), EINVAL);
	expect_either("open_full_name", try_open(dev, named(full, O_RDONLY)), EACCES, ENOENT);
	expect_either("open_unknown_name", try_open(dev, named("no-such", O_RDONLY)), EACCES, ENOENT);
	expect_either("open_unknown_name_rw", try_open(dev, named("no-such", O_RDWR)), EACCES, ENOENT);
	report("open_write_only", try_open(dev, named("no-such", O_WRONLY)) != 0, "refused", report_arg);

	arg = named("no-such", O_RDONLY);
	arg.reserved = 1;
	expect("open_reserved", try_open(dev, arg), EINVAL);
	arg = named("no-such", O_RDONLY);
	arg.enforcement = VIRTIO_DMABUF_ENFORCE_SEALED + 1;
	expect("open_unknown_enforcement", try_open(dev, arg), EINVAL);
	arg = named("no-such", O_RDONLY);
	arg.name[20] = 'x';
	expect("open_name_after_nul", try_open(dev, arg), EINVAL);
	expect("open_null", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_OPEN, NULL)), EFAULT);
}

static void list_arguments(int dev)
{
	struct virtio_dmabuf_ioc_buffer one;
	struct virtio_dmabuf_ioc_list list = { .entries = (uintptr_t)&one };

	expect("list_count_0", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_LIST, &list)), EINVAL);
	list.count = 1;
	list.reserved = 1;
	expect("list_reserved", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_LIST, &list)), EINVAL);
	list = (struct virtio_dmabuf_ioc_list){ .cursor = ~0ULL, .entries = (uintptr_t)&one, .count = 1 };
	expect("list_past_end", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_LIST, &list)), 0);
	report("list_past_end_empty", list.count == 0 && list.next == 0, "count", report_arg);
	expect("list_null", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_LIST, NULL)), EFAULT);
	list = (struct virtio_dmabuf_ioc_list){ .count = 1 };
	expect_either("list_null_array", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_LIST, &list)),
		      EFAULT, list.count ? EFAULT : 0);
}

static void file_operations(int dev)
{
	struct virtio_dmabuf_ioc_event events[64];
	struct pollfd poll_now = { .fd = dev, .events = POLLIN | POLLOUT };
	struct stat st;
	char byte = 0;

	expect("ioctl_unknown", outcome(ioctl(dev, _IO(VIRTIO_DMABUF_IOC_MAGIC, 99))), ENOTTY);
	expect("info_null", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_INFO, NULL)), EFAULT);
	expect("read_short", outcome(read(dev, &byte, 1)), EINVAL);
	while (read(dev, events, sizeof(events)) > 0)
		;
	expect("read_no_event", errno, EAGAIN);
	report("poll_no_event", poll(&poll_now, 1, 0) == 0, "events", report_arg);
	expect("write", outcome(write(dev, &byte, 1)), EINVAL);
	expect("mmap", mmap(NULL, 4096, PROT_READ, MAP_SHARED, dev, 0) == MAP_FAILED ? errno : 0, ENODEV);
	report("node_mode", !fstat(dev, &st) && (st.st_mode & 0777) == 0600, "0600", report_arg);
}

static void first_name(const struct virtio_dmabuf_ioc_buffer *b, void *arg)
{
	char *name = arg;

	if (!*name)
		printable(b->name, name);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Handles are given back in the background: asks until the count is @want, 5 s at most. */
static uint32_t handles_after(int dev, uint32_t want)
{
	struct virtio_dmabuf_ioc_info info = { };
	double end = now() + 5;

	do {
		if (device_info(dev, &info))
			return ~0U;
	} while (info.handles != want && now() < end);
	return info.handles;
}

static void leaks(int dev)
{
	struct virtio_dmabuf_ioc_info before;
	struct rlimit old, limit;
	char name[NAME_LEN + 1] = "", value[32];
	struct buffer buf;
	bool writable;
	int err;

	expect("info", -device_info(dev, &before), 0);
	expect("list", -device_list(dev, first_name, name), 0);
	if (!*name) {
		report("leaks", true, "skipped: no buffer to open", report_arg);
		return;
	}
	/* A VMM may be able to map it read-write only. */
	writable = try_open(dev, named(name, O_RDONLY)) == EACCES;
	err = 0;
	for (int i = 0; i < 100; i++) {
		err = buffer_open(dev, name, writable, &buf);
		if (err)
			break;
		buffer_close(&buf);
	}
	expect("open_close_100", -err, 0);

	getrlimit(RLIMIT_NOFILE, &old);
	limit = old;
	limit.rlim_cur = dev + 1;
	setrlimit(RLIMIT_NOFILE, &limit);
	expect("open_no_fds", try_open(dev, named(name, O_RDONLY)), EMFILE);
	setrlimit(RLIMIT_NOFILE, &old);

	snprintf(value, sizeof(value), "%u", handles_after(dev, before.handles));
	report("handles_back", (uint32_t)atoi(value) == before.handles, value, report_arg);
}

void negative(report_fn *to, void *arg)
{
	int dev = device_open(O_RDWR | O_NONBLOCK);

	report = to;
	report_arg = arg;
	if (dev < 0) {
		expect("device", -dev, 0);
		return;
	}
	open_arguments(dev);
	list_arguments(dev);
	file_operations(dev);
	leaks(dev);
	close(dev);
}
