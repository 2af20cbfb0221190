// SPDX-License-Identifier: GPL-2.0-only
/* V4L2: the camera's own dma-bufs, and capturing into others. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "derive-check.h"

#define CAMERA "/dev/video0"
/* A frame of this size has to fit into SIZE. */
#define WIDTH 640
#define HEIGHT 360

static int set_format(int dev, uint32_t fourcc, uint32_t width, uint32_t height)
{
	struct v4l2_format format = { .type = V4L2_BUF_TYPE_VIDEO_CAPTURE };

	format.fmt.pix.width = width;
	format.fmt.pix.height = height;
	format.fmt.pix.pixelformat = fourcc;
	return ioctl(dev, VIDIOC_S_FMT, &format) ? errno : 0;
}

static int request_buffers(int dev, uint32_t memory, uint32_t count)
{
	struct v4l2_requestbuffers request = {
		.count = count,
		.type = V4L2_BUF_TYPE_VIDEO_CAPTURE,
		.memory = memory,
	};

	return ioctl(dev, VIDIOC_REQBUFS, &request) ? errno : 0;
}

/* 1280x720 of two bytes each: larger than SIZE. The queue is free again: the dma-buf keeps the memory. */
int camera_export(int *fd)
{
	struct v4l2_exportbuffer export = {
		.type = V4L2_BUF_TYPE_VIDEO_CAPTURE,
		.flags = O_RDWR | O_CLOEXEC,
	};
	int dev = open(CAMERA, O_RDWR | O_CLOEXEC), err;

	if (dev < 0)
		return errno;
	err = set_format(dev, V4L2_PIX_FMT_YUYV, 1280, 720);
	if (!err)
		err = request_buffers(dev, V4L2_MEMORY_MMAP, 2);
	if (!err && ioctl(dev, VIDIOC_EXPBUF, &export))
		err = errno;
	close(dev);
	*fd = export.fd;
	return err;
}

/* Queues the one buffer, and waits until a frame is in it. */
static int capture(int dev, struct v4l2_buffer *buffer)
{
	int type = V4L2_BUF_TYPE_VIDEO_CAPTURE, err = 0;
	struct pollfd ready = { .fd = dev, .events = POLLIN };

	if (ioctl(dev, VIDIOC_QBUF, buffer))
		return errno;
	if (ioctl(dev, VIDIOC_STREAMON, &type))
		return errno;
	if (poll(&ready, 1, 10000) != 1)
		err = ETIMEDOUT;
	else if (ioctl(dev, VIDIOC_DQBUF, buffer))
		err = errno;
	ioctl(dev, VIDIOC_STREAMOFF, &type);
	return err;
}

static int capture_into(struct v4l2_buffer *buffer)
{
	int dev = open(CAMERA, O_RDWR | O_NONBLOCK | O_CLOEXEC), err;

	if (dev < 0)
		return errno;
	buffer->type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
	buffer->length = SIZE;
	err = set_format(dev, V4L2_PIX_FMT_YUYV, WIDTH, HEIGHT);
	if (!err)
		err = request_buffers(dev, buffer->memory, 2);
	if (!err)
		err = capture(dev, buffer);
	close(dev);
	return err;
}

int camera_capture_dmabuf(int fd)
{
	struct v4l2_buffer buffer = { .memory = V4L2_MEMORY_DMABUF, .m.fd = fd };

	return capture_into(&buffer);
}

int camera_capture_user(void *memory)
{
	struct v4l2_buffer buffer = {
		.memory = V4L2_MEMORY_USERPTR,
		.m.userptr = (unsigned long)memory,
	};

	return capture_into(&buffer);
}
