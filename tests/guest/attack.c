// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attempts to write to a read-only buffer: by the mapping, around the mapping,
 * by the dma-buf, by a device, and as root by the window itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest-check.h"

static report_fn *report;
static void *report_arg;

static void expect(const char *name, int got, int want)
{
	report(name, got == want, errno_name(got), report_arg);
}

/* For calls that set errno: it must be read after the call. */
static void refused(const char *name, bool was)
{
	report(name, was, was ? errno_name(errno) : "done", report_arg);
}

static int try_map(const struct buffer *buf, int prot, int flags)
{
	void *map = mmap(NULL, buf->size, prot, flags, buf->fd, 0);

	if (map == MAP_FAILED)
		return errno;
	munmap(map, buf->size);
	return 0;
}

static void by_mapping(const struct buffer *buf)
{
	expect("mmap_shared_write", try_map(buf, PROT_READ | PROT_WRITE, MAP_SHARED), EACCES);
	expect("mmap_private_write", try_map(buf, PROT_READ | PROT_WRITE, MAP_PRIVATE), EACCES);
	expect("mmap_private_read", try_map(buf, PROT_READ, MAP_PRIVATE), EINVAL);
	expect("mmap_write_only", try_map(buf, PROT_WRITE, MAP_SHARED), EACCES);
	expect("mprotect", mprotect(buf->map, buf->size, PROT_READ | PROT_WRITE) ? errno : 0, EACCES);
	expect("mprotect_page", mprotect(buf->map, 4096, PROT_WRITE) ? errno : 0, EACCES);
	/* Past the end, and grown past the end */
	refused("mmap_past_end",
		mmap(NULL, buf->size + 4096, PROT_READ, MAP_SHARED, buf->fd, 0) == MAP_FAILED);
	refused("mmap_offset_past_end",
		mmap(NULL, buf->size, PROT_READ, MAP_SHARED, buf->fd, 4096) == MAP_FAILED);
	refused("mremap_grow",
		mremap(buf->map, buf->size, buf->size + 4096, MREMAP_MAYMOVE) == MAP_FAILED);
}

static void around_mapping(const struct buffer *buf)
{
	uint8_t byte = 0;
	struct iovec from = { &byte, 1 }, to = { buf->map, 1 };
	int mem, zero, got;

	got = guarded_copy(buf->map, &byte, 1);
	report("store", got == -EFAULT, got ? "fault" : "written", report_arg);

	mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	refused("proc_mem", pwrite(mem, &byte, 1, (off_t)(uintptr_t)buf->map) != 1);
	close(mem);
	refused("process_vm_writev", process_vm_writev(getpid(), &from, 1, &to, 1, 0) != 1);
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	refused("read_into", read(zero, buf->map, 4096) <= 0);
	close(zero);
	refused("madvise_remove", madvise(buf->map, 4096, MADV_REMOVE) != 0);
}

static void by_dmabuf(const struct buffer *buf)
{
	uint8_t byte = 0;
	char path[64];
	int fd;

	expect("sync_start_write", -buffer_sync(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE), EACCES);
	expect("sync_start_rw", -buffer_sync(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW), EACCES);
	expect("sync_start_read", -buffer_sync(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ), 0);
	expect("sync_end_read", -buffer_sync(buf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ), 0);
	expect("fd_access_mode", fcntl(buf->fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	refused("write", write(buf->fd, &byte, 1) < 0);
	refused("ftruncate", ftruncate(buf->fd, 0) < 0);
	refused("fallocate",
		fallocate(buf->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", buf->fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	refused("reopen", fd < 0);
	if (fd >= 0)
		close(fd);
}

/* The same name read-write: a read-only grant must not give that. */
static void by_name(int dev, const struct buffer *buf)
{
	struct buffer rw;
	int got = buffer_open(dev, buf->name, true, &rw);

	report("open_rw", got == -EACCES, errno_name(got), report_arg);
	if (!got)
		buffer_close(&rw);
}

void attack(int dev, struct buffer *buf, report_fn *to, void *arg)
{
	uint32_t before, after;
	bool readable;

	report = to;
	report_arg = arg;
	readable = !buffer_crc(buf, buf->size, &before);
	by_mapping(buf);
	around_mapping(buf);
	by_dmabuf(buf);
	by_name(dev, buf);
	readable = readable && !buffer_crc(buf, buf->size, &after);
	report("bytes_unchanged", readable && before == after, readable ? "crc" : "unreadable", arg);
	attack_pci(dev, buf, to, arg);
}
