// SPDX-License-Identifier: GPL-2.0-only
/* dma-bufs of every exporter there is. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "derive-check.h"
#include "test_exporter/test_exporter.h"

size_t exporters(char names[MAX_EXPORTERS][48])
{
	DIR *heaps = opendir("/dev/dma_heap");
	struct dirent *entry;
	size_t n = 0;

	while (heaps && (entry = readdir(heaps)) && n < MAX_EXPORTERS - 3)
		if (entry->d_name[0] != '.')
			snprintf(names[n++], 48, "%.47s", entry->d_name);
	if (heaps)
		closedir(heaps);
	strcpy(names[n++], "udmabuf");
	strcpy(names[n++], "camera");
	strcpy(names[n++], "exporter");
	return n;
}

bool is_heap(const char *exporter)
{
	static const char *const others[] = { "udmabuf", "camera", "exporter", "memfd" };

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (!strcmp(exporter, others[i]))
			return false;
	return true;
}

int heap_alloc(const char *heap, uint32_t fd_flags, int *fd)
{
	struct dma_heap_allocation_data data = { .len = SIZE, .fd_flags = fd_flags };
	char path[128];
	int dev, err = 0;

	snprintf(path, sizeof(path), "/dev/dma_heap/%s", heap);
	dev = open(path, O_RDONLY | O_CLOEXEC);
	if (dev < 0)
		return errno;
	if (ioctl(dev, DMA_HEAP_IOCTL_ALLOC, &data))
		err = errno;
	close(dev);
	*fd = data.fd;
	return err;
}

int exporter_alloc(uint32_t kind, int *fd)
{
	struct test_exporter_export request = { .kind = kind, .size = SIZE };
	int dev = open("/dev/test-exporter", O_RDWR | O_CLOEXEC), err = 0;

	if (dev < 0)
		return errno;
	if (ioctl(dev, TEST_EXPORTER_EXPORT, &request))
		err = errno;
	close(dev);
	*fd = request.fd;
	return err;
}

int memfd_sealed(unsigned int seals, int *memfd, int *dmabuf)
{
	struct udmabuf_create create = { .flags = UDMABUF_FLAGS_CLOEXEC, .size = SIZE };
	int dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), err = 0;

	if (dev < 0)
		return errno;
	*memfd = memfd_create("derive-check", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*memfd < 0 || ftruncate(*memfd, SIZE) || fcntl(*memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		err = errno;
	create.memfd = *memfd;
	if (!err) {
		*dmabuf = ioctl(dev, UDMABUF_CREATE, &create);
		if (*dmabuf < 0 || (seals && fcntl(*memfd, F_ADD_SEALS, seals)))
			err = errno;
	}
	close(dev);
	return err;
}

static int memfd_plain(int *fd)
{
	*fd = memfd_create("derive-check", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return *fd < 0 || ftruncate(*fd, SIZE) ? errno : 0;
}

int memory_open(const char *exporter, struct memory *m)
{
	int err;

	snprintf(m->name, sizeof(m->name), "%s", exporter);
	m->memfd = -1;
	m->fd = -1;
	if (is_heap(exporter))
		err = heap_alloc(exporter, O_RDWR | O_CLOEXEC, &m->fd);
	else if (!strcmp(exporter, "udmabuf"))
		err = memfd_sealed(0, &m->memfd, &m->fd);
	else if (!strcmp(exporter, "camera"))
		err = camera_export(&m->fd);
	else if (!strcmp(exporter, "memfd"))
		err = memfd_plain(&m->fd);
	else
		err = exporter_alloc(TEST_EXPORTER_PLAIN, &m->fd);
	if (err)
		return err;
	m->map = try_map(m->fd, PROT_READ | PROT_WRITE, MAP_SHARED, &err);
	if (err)
		return err;
	memory_fill(m);
	return 0;
}

void memory_close(struct memory *m)
{
	munmap(m->map, SIZE);
	close(m->fd);
	if (m->memfd >= 0)
		close(m->memfd);
}

/* No two pages alike; 0 at offset 0. */
static uint8_t byte_at(size_t i)
{
	return i * 31 + (i >> 12) * 7;
}

void memory_fill(struct memory *m)
{
	for (size_t i = 0; i < SIZE; i++)
		m->map[i] = byte_at(i);
}

bool memory_intact(const struct memory *m)
{
	for (size_t i = 0; i < SIZE; i++)
		if (m->map[i] != byte_at(i))
			return false;
	return true;
}

int derive(int fd, uint32_t flags, uint32_t options, int *alias)
{
	struct dmabuf_derive request = { .fd = fd, .flags = flags, .options = options, .alias = -1 };
	int dev = open("/dev/dmabuf-derive", O_RDONLY | O_CLOEXEC), err = 0;

	if (dev < 0) {
		perror("/dev/dmabuf-derive (is dmabuf_derive.ko loaded?)");
		exit(2);
	}
	if (ioctl(dev, DMABUF_DERIVE_IOC_DERIVE, &request))
		err = errno;
	close(dev);
	*alias = request.alias;
	return err;
}

void *try_map(int fd, int prot, int flags, int *err)
{
	void *map = mmap(NULL, SIZE, prot, flags, fd, 0);

	*err = map == MAP_FAILED ? errno : 0;
	return map;
}

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
		return EFAULT;
	}
	guarded = 1;
	memcpy(to, from, len);
	guarded = 0;
	return 0;
}
