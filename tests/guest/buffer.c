// SPDX-License-Identifier: GPL-2.0-only
/* Opening, mapping and touching a buffer. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/dma-buf.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "guest-check.h"

#define CHUNK (64 * 1024)
#define HUGE_PAGE (2UL << 20)

static sigjmp_buf on_fault;
static volatile sig_atomic_t guarded;

static void fault(int sig)
{
	if (guarded)
		siglongjmp(on_fault, 1);
	signal(sig, SIG_DFL);
	raise(sig);
}

int guarded_copy(void *to, const void *from, size_t len)
{
	struct sigaction action = { .sa_handler = fault };

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	if (sigsetjmp(on_fault, 1)) {
		guarded = 0;
		return -EFAULT;
	}
	guarded = 1;
	memcpy(to, from, len);
	guarded = 0;
	return 0;
}

int guarded_load(const volatile uint32_t *from, uint32_t *value)
{
	struct sigaction action = { .sa_handler = fault };

	sigaction(SIGBUS, &action, NULL);
	if (sigsetjmp(on_fault, 1)) {
		guarded = 0;
		return -EFAULT;
	}
	guarded = 1;
	*value = *from;
	guarded = 0;
	return 0;
}

uint8_t *map_huge(int fd, size_t len, int prot, size_t shift)
{
	size_t room = len + shift + HUGE_PAGE;
	uint8_t *reserved = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *at = (uint8_t *)(((uintptr_t)reserved + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1)) + shift;
	uint8_t *map;
	int err;

	if (reserved == MAP_FAILED)
		return reserved;
	map = mmap(at, len, prot, MAP_SHARED | MAP_FIXED, fd, 0);
	err = errno;
	if (at > reserved)
		munmap(reserved, at - reserved);
	/* What is mapped is whole pages. */
	len = (len + 4095) & ~4095UL;
	if (map == MAP_FAILED)
		munmap(at, reserved + room - at);
	else
		munmap(at + len, reserved + room - at - len);
	errno = err;
	return map;
}

int map_faults(int fd, size_t len, size_t shift)
{
	volatile uint8_t *map = map_huge(fd, len, PROT_READ, shift);
	struct rusage before, after;

	if (map == MAP_FAILED)
		return -errno;
	getrusage(RUSAGE_SELF, &before);
	for (size_t offset = 0; offset < len; offset += 4096)
		(void)map[offset];
	getrusage(RUSAGE_SELF, &after);
	munmap((void *)map, len);
	return after.ru_minflt - before.ru_minflt;
}

const char *errno_name(int err)
{
	const char *name = strerrorname_np(err < 0 ? -err : err);

	return name ? name : "unknown";
}

const char *printable(const uint8_t *name, char out[NAME_LEN + 1])
{
	int i;

	for (i = 0; i < NAME_LEN && name[i]; i++)
		out[i] = name[i] > ' ' && name[i] < 0x7f ? (char)name[i] : '?';
	out[i] = 0;
	return out;
}

int device_open(int flags)
{
	const char *named = getenv("DMABUF_DEVICE");
	glob_t found;
	int fd = -ENOENT;

	if (named) {
		fd = open(named, flags | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	if (glob("/dev/virtio-dmabuf*", 0, NULL, &found))
		return fd;
	fd = open(found.gl_pathv[0], flags | O_CLOEXEC);
	globfree(&found);
	return fd < 0 ? -errno : fd;
}

int device_info(int dev, struct virtio_dmabuf_ioc_info *info)
{
	return ioctl(dev, VIRTIO_DMABUF_IOC_INFO, info) ? -errno : 0;
}

int device_list(int dev, void (*each)(const struct virtio_dmabuf_ioc_buffer *, void *), void *arg)
{
	struct virtio_dmabuf_ioc_buffer page[8];
	struct virtio_dmabuf_ioc_list list = { .entries = (uintptr_t)page };

	do {
		list.count = sizeof(page) / sizeof(page[0]);
		if (ioctl(dev, VIRTIO_DMABUF_IOC_LIST, &list))
			return -errno;
		for (uint32_t i = 0; i < list.count; i++)
			each(&page[i], arg);
		list.cursor = list.next;
	} while (list.next);
	return 0;
}

int buffer_open(int dev, const char *name, bool writable, struct buffer *buf)
{
	struct virtio_dmabuf_ioc_open arg = { .flags = O_CLOEXEC };
	int err;

	if (strlen(name) > NAME_LEN)
		return -EINVAL;
	memset(buf, 0, sizeof(*buf));
	strcpy(buf->name, name);
	memcpy(arg.name, name, strlen(name));
	arg.flags |= writable ? O_RDWR : O_RDONLY;
	if (ioctl(dev, VIRTIO_DMABUF_IOC_OPEN, &arg))
		return -errno;
	buf->writable = writable;
	buf->fd = arg.fd;
	buf->size = arg.size;
	buf->enforcement = arg.enforcement;
	buf->map = map_huge(arg.fd, arg.size, writable ? PROT_READ | PROT_WRITE : PROT_READ, 0);
	if (buf->map == MAP_FAILED) {
		err = -errno;
		close(arg.fd);
		return err;
	}
	return 0;
}

void buffer_close(struct buffer *buf)
{
	munmap(buf->map, buf->size);
	close(buf->fd);
	buf->fd = -1;
}

int buffer_sync(const struct buffer *buf, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	return ioctl(buf->fd, DMA_BUF_IOCTL_SYNC, &sync) ? -errno : 0;
}

static int buffer_chunk(const struct buffer *buf, uint64_t offset, uint8_t chunk[CHUNK],
			uint64_t end)
{
	uint64_t len = end - offset;

	if (len > CHUNK)
		len = CHUNK;
	return guarded_copy(chunk, buf->map + offset, len) ? -EFAULT : (int)len;
}

int buffer_crc(const struct buffer *buf, uint64_t len, uint32_t *crc)
{
	static uint8_t chunk[CHUNK];
	int got, err;

	if (len > buf->size)
		return -EINVAL;
	err = buffer_sync(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	if (err)
		return err;
	*crc = 0;
	for (uint64_t offset = 0; offset < len; offset += got) {
		got = buffer_chunk(buf, offset, chunk, len);
		if (got < 0)
			return got;
		*crc = crc32(*crc, chunk, got);
	}
	return buffer_sync(buf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
}

int buffer_get(const struct buffer *buf, uint64_t offset, void *to, size_t len)
{
	if (offset > buf->size || len > buf->size - offset)
		return -EINVAL;
	return guarded_copy(to, buf->map + offset, len);
}

int buffer_put(const struct buffer *buf, uint64_t offset, const void *from, size_t len)
{
	int err;

	if (offset > buf->size || len > buf->size - offset)
		return -EINVAL;
	err = buffer_sync(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
	if (!err)
		err = guarded_copy(buf->map + offset, from, len);
	if (!err)
		err = buffer_sync(buf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
	return err;
}

int buffer_dump(const struct buffer *buf, const char *path, uint64_t len)
{
	static uint8_t chunk[CHUNK];
	FILE *out;
	int got = 0, err = 0;

	if (len > buf->size)
		return -EINVAL;
	out = fopen(path, "we");
	if (!out)
		return -errno;
	for (uint64_t offset = 0; offset < len && !err; offset += got) {
		got = buffer_chunk(buf, offset, chunk, len);
		if (got < 0)
			err = got;
		else if (fwrite(chunk, 1, got, out) != (size_t)got)
			err = -EIO;
	}
	if (fclose(out) && !err)
		err = -errno;
	return err;
}
