// SPDX-License-Identifier: GPL-2.0-only
/* frame-crc NAME: opens a buffer of the host by its name, and prints its size and the CRC of what is in it. */
#include <err.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../../kernel/virtio_dmabuf/uapi/virtio_dmabuf.h"

static __u32 crc32(const __u8 *bytes, size_t len)
{
	__u32 crc = ~0u;

	while (len--) {
		crc ^= *bytes++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
	}
	return ~crc;
}

/* Waits for whoever writes to it, and tells that it is read now, or no more. */
static void sync_buffer(int fd, __u64 flags)
{
	struct dma_buf_sync sync = { .flags = flags | DMA_BUF_SYNC_READ };

	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		err(1, "sync");
}

int main(int argc, char **argv)
{
	struct virtio_dmabuf_ioc_open open_arg = { .flags = O_RDONLY | O_CLOEXEC };
	const __u8 *map;
	int device;

	if (argc != 2 || strlen(argv[1]) > sizeof(open_arg.name))
		errx(2, "usage: frame-crc NAME");
	memcpy(open_arg.name, argv[1], strlen(argv[1]));
	device = open("/dev/virtio-dmabuf0", O_RDWR | O_CLOEXEC);
	if (device < 0)
		err(1, "/dev/virtio-dmabuf0");
	if (ioctl(device, VIRTIO_DMABUF_IOC_OPEN, &open_arg))
		err(1, "%s", argv[1]);
	/* A dma-buf as any other: it stays valid without the device's file. */
	map = mmap(NULL, open_arg.size, PROT_READ, MAP_SHARED, open_arg.fd, 0);
	if (map == MAP_FAILED)
		err(1, "mmap");
	sync_buffer(open_arg.fd, DMA_BUF_SYNC_START);
	printf("%llu bytes, crc %08x\n", open_arg.size, crc32(map, open_arg.size));
	sync_buffer(open_arg.fd, DMA_BUF_SYNC_END);
	return 0;
}
