// SPDX-License-Identifier: GPL-2.0-only
/* Attacks by the fd. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#include "derive-check.h"

#define RDWR (PROT_READ | PROT_WRITE)

static int mmap_shared_write(const struct target *t)
{
	return map_and_store(t->fd, RDWR, MAP_SHARED);
}

static int mmap_write_only(const struct target *t)
{
	return map_and_store(t->fd, PROT_WRITE, MAP_SHARED);
}

static int mmap_validate(const struct target *t)
{
	return map_and_store(t->fd, RDWR, MAP_SHARED_VALIDATE);
}

/* The store is the holder's own affair, if it changes nothing else. */
static int mmap_private_write(const struct target *t)
{
	return map_and_store(t->fd, RDWR, MAP_PRIVATE);
}

static int mmap_populate(const struct target *t)
{
	return map_and_store(t->fd, RDWR, MAP_SHARED | MAP_POPULATE);
}

static int mmap_none_mprotect(const struct target *t)
{
	int err;
	uint8_t *map = try_map(t->fd, PROT_NONE, MAP_SHARED, &err);

	if (err)
		return err;
	err = mprotect(map, SIZE, RDWR) ? errno : store(map);
	munmap(map, SIZE);
	return err;
}

static int reopen(const struct target *t)
{
	char path[64];
	int fd, err;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return errno;
	err = map_and_store(fd, RDWR, MAP_SHARED);
	close(fd);
	return err;
}

static int reopen_truncating(const struct target *t)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->fd);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

/* The kernel takes it, and leaves the access mode as it is. */
static int setfl(const struct target *t)
{
	return fcntl(t->fd, F_SETFL, O_RDWR) ? errno : map_and_store(t->fd, RDWR, MAP_SHARED);
}

static int write_bytes(const struct target *t)
{
	uint8_t byte = ATTACK_BYTE;

	lseek(t->fd, 0, SEEK_SET);
	return write(t->fd, &byte, 1) < 0 ? errno : 0;
}

static int pwrite_bytes(const struct target *t)
{
	uint8_t byte = ATTACK_BYTE;

	return pwrite(t->fd, &byte, 1, 0) < 0 ? errno : 0;
}

static int pwritev2_bytes(const struct target *t)
{
	uint8_t byte = ATTACK_BYTE;
	struct iovec from = { &byte, 1 };

	return pwritev2(t->fd, &from, 1, 0, RWF_HIPRI) < 0 ? errno : 0;
}

/* A file of ATTACK_BYTEs. */
static int bytes_file(void)
{
	int fd = memfd_create("bytes", MFD_CLOEXEC);
	uint8_t bytes[4096];

	memset(bytes, ATTACK_BYTE, sizeof(bytes));
	if (fd >= 0 && pwrite(fd, bytes, sizeof(bytes), 0) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int send_file(const struct target *t)
{
	int from = bytes_file(), err;

	lseek(t->fd, 0, SEEK_SET);
	err = sendfile(t->fd, from, NULL, 4096) < 0 ? errno : 0;
	close(from);
	return err;
}

static int copy_range(const struct target *t)
{
	int from = bytes_file(), err;
	off_t to = 0;

	err = copy_file_range(from, NULL, t->fd, &to, 4096, 0) < 0 ? errno : 0;
	close(from);
	return err;
}

static int splice_into(const struct target *t)
{
	uint8_t bytes[64];
	int ends[2], err = 0;
	off_t to = 0;

	if (pipe2(ends, O_CLOEXEC))
		return NOT_TRIED;
	memset(bytes, ATTACK_BYTE, sizeof(bytes));
	if (write(ends[1], bytes, sizeof(bytes)) < 0 ||
	    splice(ends[0], NULL, t->fd, &to, sizeof(bytes), 0) < 0)
		err = errno;
	close(ends[0]);
	close(ends[1]);
	return err;
}

static int truncate_to_nothing(const struct target *t)
{
	return ftruncate(t->fd, 0) ? errno : 0;
}

static int punch_hole(const struct target *t)
{
	return fallocate(t->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) ? errno : 0;
}

static int zero_range(const struct target *t)
{
	return fallocate(t->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 4096, 4096) ? errno : 0;
}

static int add_seals(const struct target *t)
{
	return fcntl(t->fd, F_ADD_SEALS, F_SEAL_SEAL) ? errno : 0;
}

/* A writable dma-buf of the memory, if the file can be taken for a memfd. */
static int udmabuf_of_it(const struct target *t)
{
	struct udmabuf_create create = { .memfd = t->fd, .size = SIZE };
	int dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd, err;

	if (dev < 0)
		return NOT_TRIED;
	fcntl(t->fd, F_ADD_SEALS, F_SEAL_SHRINK);
	fd = ioctl(dev, UDMABUF_CREATE, &create);
	err = fd < 0 ? errno : 0;
	close(dev);
	if (fd < 0)
		return err;
	err = map_and_store(fd, RDWR, MAP_SHARED);
	close(fd);
	return err;
}

static int derive_more(const struct target *t)
{
	int alias, err = derive(t->fd, O_RDWR, 0, &alias);

	if (err)
		return err;
	err = map_and_store(alias, RDWR, MAP_SHARED);
	close(alias);
	return err;
}

/* Lenient means: takes the request, not the store. */
static int derive_lenient(const struct target *t)
{
	int alias, err = derive(t->fd, O_RDONLY, LENIENT, &alias);

	if (err)
		return err;
	err = map_and_store(alias, RDWR, MAP_SHARED);
	close(alias);
	return err;
}

static int prime_import(const struct target *t)
{
	int vgem = vgem_open(), err;
	uint32_t handle;

	if (vgem < 0)
		return NOT_TRIED;
	err = vgem_import(vgem, t->fd, &handle);
	close(vgem);
	return err;
}

static int camera_dmabuf(const struct target *t)
{
	return camera_capture_dmabuf(t->fd);
}

const struct attack attacks_fd[] = {
	{ "mmap_shared_write", mmap_shared_write, REFUSED },
	{ "mmap_write_only", mmap_write_only, REFUSED },
	{ "mmap_validate", mmap_validate, REFUSED },
	{ "mmap_private_write", mmap_private_write, HARMLESS },
	{ "mmap_populate", mmap_populate, REFUSED },
	{ "mmap_none_mprotect", mmap_none_mprotect, REFUSED },
	{ "reopen", reopen, REFUSED },
	{ "setfl", setfl, REFUSED },
	{ "write", write_bytes, REFUSED },
	{ "pwrite", pwrite_bytes, REFUSED },
	{ "pwritev2", pwritev2_bytes, REFUSED },
	{ "sendfile", send_file, REFUSED },
	{ "copy_file_range", copy_range, REFUSED },
	{ "splice", splice_into, REFUSED },
	{ "ftruncate", truncate_to_nothing, NOT_LET_THROUGH },
	{ "reopen_truncating", reopen_truncating, NOT_LET_THROUGH },
	{ "punch_hole", punch_hole, REFUSED },
	{ "zero_range", zero_range, REFUSED_ALWAYS },
	{ "add_seals", add_seals, NOT_LET_THROUGH },
	{ "udmabuf", udmabuf_of_it, REFUSED },
	{ "derive_rw", derive_more, REFUSED },
	{ "derive_lenient", derive_lenient, HARMLESS },
	{ "prime_import", prime_import, NOT_LET_THROUGH },
	{ "camera_dmabuf", camera_dmabuf, REFUSED },
	{ 0 },
};
