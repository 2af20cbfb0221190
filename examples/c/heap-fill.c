// SPDX-License-Identifier: GPL-2.0-only
/*
 * heap-fill HEAP BYTES HEX: allocates from /dev/dma_heap/HEAP, and fills it. With
 * HEAP virtio-NAME the memory is the host's, and no line here knows of that.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static void sync_buffer(int fd, __u64 flags)
{
	struct dma_buf_sync sync = { .flags = flags | DMA_BUF_SYNC_RW };

	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		err(1, "sync");
}

int main(int argc, char **argv)
{
	struct dma_heap_allocation_data data = { .fd_flags = O_RDWR | O_CLOEXEC };
	char path[128];
	__u8 *map;
	int heap;

	if (argc != 4)
		errx(2, "usage: heap-fill HEAP BYTES HEX");
	snprintf(path, sizeof(path), "/dev/dma_heap/%s", argv[1]);
	data.len = strtoull(argv[2], NULL, 0);
	heap = open(path, O_RDWR | O_CLOEXEC);
	if (heap < 0)
		err(1, "%s", path);
	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		err(1, "%llu bytes from %s", data.len, path);
	map = mmap(NULL, data.len, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (map == MAP_FAILED)
		err(1, "mmap");
	sync_buffer(data.fd, DMA_BUF_SYNC_START);
	memset(map, strtoul(argv[3], NULL, 16), data.len);
	printf("first byte %02x, last byte %02x\n", map[0], map[data.len - 1]);
	sync_buffer(data.fd, DMA_BUF_SYNC_END);
	/* The host has it back when the last file and the last mapping of it are closed: at exit. */
	return 0;
}
