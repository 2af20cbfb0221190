// SPDX-License-Identifier: GPL-2.0-only
/*
 * heap-expbuf: to be preloaded. What the program exports from a V4L2 device
 * (VIDIOC_EXPBUF) is replaced by a buffer of the same size from the dma-heap
 * $EXPBUF_HEAP: v4l2-compliance takes its dma-bufs from nowhere else. Each is a line
 * on stderr.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int replace(struct v4l2_exportbuffer *exported)
{
	struct dma_heap_allocation_data data = { .fd_flags = O_RDWR | O_CLOEXEC };
	const char *name = getenv("EXPBUF_HEAP");
	char path[128];
	int heap, err;

	data.len = lseek(exported->fd, 0, SEEK_END);
	close(exported->fd);
	exported->fd = -1;
	snprintf(path, sizeof(path), "/dev/dma_heap/%s", name ? name : "");
	heap = open(path, O_RDWR | O_CLOEXEC);
	if (heap < 0)
		return -1;
	err = syscall(SYS_ioctl, heap, DMA_HEAP_IOCTL_ALLOC, &data);
	close(heap);
	if (err)
		return -1;
	fprintf(stderr, "heap-expbuf: %llu bytes\n", data.len);
	exported->fd = data.fd;
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;
	int ret;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	ret = syscall(SYS_ioctl, fd, request, arg);
	if (ret || request != VIDIOC_EXPBUF)
		return ret;
	return replace(arg);
}
