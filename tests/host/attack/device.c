// SPDX-License-Identifier: GPL-2.0-only
/* Devices that take the fd for memory they may write to. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <linux/udmabuf.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attack.h"

/* drm.h and drm_mode.h, as far as it takes */
struct drm_prime_handle {
	__u32 handle;
	__u32 flags;
	__s32 fd;
};
#define DRM_IOCTL_PRIME_HANDLE_TO_FD	_IOWR('d', 0x2d, struct drm_prime_handle)
#define DRM_IOCTL_PRIME_FD_TO_HANDLE	_IOWR('d', 0x2e, struct drm_prime_handle)
static int store(int fd, uint64_t offset, size_t size)
{
	volatile uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	if (map == MAP_FAILED)
		return -errno;
	map[0] = 0xa5;
	return 0;
}

static int udmabuf_create(const struct target *t)
{
	struct udmabuf_create create = {
		.memfd = t->fd, .flags = UDMABUF_FLAGS_CLOEXEC, .offset = t->offset, .size = t->size };
	int fd, dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);

	if (dev < 0)
		return NOT_APPLICABLE;
	fd = ioctl(dev, UDMABUF_CREATE, &create);
	return fd < 0 ? -errno : store(fd, 0, t->size);
}

static int udmabuf_list(const struct target *t)
{
	struct {
		struct udmabuf_create_list list;
		struct udmabuf_create_item item;
	} create = {
		.list = { .flags = UDMABUF_FLAGS_CLOEXEC, .count = 1 },
		.item = { .memfd = t->fd, .offset = t->offset, .size = t->size },
	};
	int fd, dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);

	if (dev < 0)
		return NOT_APPLICABLE;
	fd = ioctl(dev, UDMABUF_CREATE_LIST, &create);
	return fd < 0 ? -errno : store(fd, 0, t->size);
}

/* Into vgem: a device that has it can write to it by DMA. */
static int prime_import(const struct target *t)
{
	struct drm_prime_handle import = { .fd = t->fd };
	int dev = open("/dev/dri/renderD128", O_RDWR | O_CLOEXEC);

	if (dev < 0)
		return NOT_APPLICABLE;
	return ioctl(dev, DRM_IOCTL_PRIME_FD_TO_HANDLE, &import) ? -errno : 0;
}

/* Into vgem, and out again as a dma-buf with write access. */
static int prime_export(const struct target *t)
{
	struct drm_prime_handle import = { .fd = t->fd }, export = { 0 };
	int dev = open("/dev/dri/renderD128", O_RDWR | O_CLOEXEC);

	if (dev < 0)
		return NOT_APPLICABLE;
	if (ioctl(dev, DRM_IOCTL_PRIME_FD_TO_HANDLE, &import))
		return -errno;
	export.handle = import.handle;
	export.flags = O_RDWR | O_CLOEXEC;
	if (ioctl(dev, DRM_IOCTL_PRIME_HANDLE_TO_FD, &export))
		return -errno;
	return store(export.fd, 0, t->size);
}

/* The camera captures a frame into it: DMA by a driver, as far as vivid has any. */
static int camera(const struct target *t)
{
	struct v4l2_format format = { .type = V4L2_BUF_TYPE_VIDEO_CAPTURE };
	struct v4l2_requestbuffers request = {
		.count = 2, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE, .memory = V4L2_MEMORY_DMABUF };
	struct v4l2_buffer buffer = { .type = V4L2_BUF_TYPE_VIDEO_CAPTURE, .memory = V4L2_MEMORY_DMABUF };
	int type = V4L2_BUF_TYPE_VIDEO_CAPTURE, dev = open("/dev/video0", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct pollfd poller = { .fd = dev, .events = POLLIN };
	int err = 0;

	if (dev < 0)
		return NOT_APPLICABLE;
	if (ioctl(dev, VIDIOC_G_FMT, &format))
		return -errno;
	format.fmt.pix.width = 320;
	format.fmt.pix.height = 180;
	format.fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV;
	if (ioctl(dev, VIDIOC_S_FMT, &format))
		return errno == EBUSY ? NOT_APPLICABLE : -errno;
	if (ioctl(dev, VIDIOC_REQBUFS, &request))
		return -errno;
	buffer.m.fd = t->fd;
	buffer.length = t->size;
	if (ioctl(dev, VIDIOC_QBUF, &buffer))
		return -errno;
	buffer.index = 1;
	if (ioctl(dev, VIDIOC_QBUF, &buffer) || ioctl(dev, VIDIOC_STREAMON, &type))
		return -errno;
	if (poll(&poller, 1, 5000) != 1)
		err = -ETIMEDOUT;
	ioctl(dev, VIDIOC_STREAMOFF, &type);
	return err;
}

const struct attack device_attacks[] = {
	{ "udmabuf_create", udmabuf_create, 0 },
	{ "udmabuf_create_list", udmabuf_list, 0 },
	{ "prime_import_vgem", prime_import, 1 },
	{ "prime_export_vgem", prime_export, 0 },
	{ "v4l2_capture", camera, 0 },
	{ 0 }
};
