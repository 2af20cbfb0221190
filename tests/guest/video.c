// SPDX-License-Identifier: GPL-2.0-only
/* V4L2 into and out of buffers of a heap, by V4L2_MEMORY_DMABUF. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest-check.h"
#include "heap-check.h"

#define WIDTH 640
#define HEIGHT 360

static int set_format(int dev, uint32_t type, struct picture *picture)
{
	struct v4l2_format format = { .type = type };

	format.fmt.pix.width = WIDTH;
	format.fmt.pix.height = HEIGHT;
	format.fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV;
	if (ioctl(dev, VIDIOC_S_FMT, &format))
		return -errno;
	picture->fourcc = format.fmt.pix.pixelformat;
	picture->width = format.fmt.pix.width;
	picture->height = format.fmt.pix.height;
	picture->stride = format.fmt.pix.bytesperline;
	picture->size = format.fmt.pix.sizeimage;
	return 0;
}

static int queue(int dev, uint32_t type, uint32_t index, int fd, const struct picture *picture)
{
	struct v4l2_buffer buffer = {
		.index = index,
		.type = type,
		.memory = V4L2_MEMORY_DMABUF,
		.m.fd = fd,
		.bytesused = picture->size,
		.field = V4L2_FIELD_NONE,
	};

	return ioctl(dev, VIDIOC_QBUF, &buffer) ? -errno : 0;
}

/* Streams until each buffer has come back once. */
static int stream(int dev, uint32_t type, const int *fds, const struct picture *picture)
{
	struct v4l2_requestbuffers request = {
		.count = CAPTURE_BUFFERS, .type = type, .memory = V4L2_MEMORY_DMABUF,
	};
	struct pollfd ready = {
		.fd = dev, .events = V4L2_TYPE_IS_OUTPUT(type) ? POLLOUT : POLLIN,
	};
	int err = ioctl(dev, VIDIOC_REQBUFS, &request) ? -errno : 0;
	unsigned int seen = 0;

	for (uint32_t i = 0; i < CAPTURE_BUFFERS && !err; i++)
		err = queue(dev, type, i, fds[i], picture);
	if (!err && ioctl(dev, VIDIOC_STREAMON, &type))
		err = -errno;
	while (!err && seen != (1 << CAPTURE_BUFFERS) - 1) {
		struct v4l2_buffer buffer = { .type = type, .memory = V4L2_MEMORY_DMABUF };

		if (poll(&ready, 1, 10000) != 1)
			err = -ETIMEDOUT;
		else if (ioctl(dev, VIDIOC_DQBUF, &buffer))
			err = -errno;
		else if (buffer.flags & V4L2_BUF_FLAG_ERROR)
			err = queue(dev, type, buffer.index, fds[buffer.index], picture);
		else
			seen |= 1 << buffer.index;
		/* The last output buffers stay with a device that has no others. */
		if (V4L2_TYPE_IS_OUTPUT(type) && seen)
			break;
	}
	ioctl(dev, VIDIOC_STREAMOFF, &type);
	return err;
}

int video_capture(const char *device, int heap, int *fds, struct picture *picture)
{
	int dev = open(device, O_RDWR | O_NONBLOCK | O_CLOEXEC), err;

	if (dev < 0)
		return -errno;
	err = set_format(dev, V4L2_BUF_TYPE_VIDEO_CAPTURE, picture);
	for (int i = 0; i < CAPTURE_BUFFERS && !err; i++)
		err = heap_alloc(heap, picture->size, O_RDWR | O_CLOEXEC, &fds[i]);
	if (!err)
		err = stream(dev, V4L2_BUF_TYPE_VIDEO_CAPTURE, fds, picture);
	close(dev);
	return err;
}

int video_output(const char *device, const int *fds, const struct picture *picture)
{
	int dev = open(device, O_RDWR | O_NONBLOCK | O_CLOEXEC), err;
	struct picture out;

	if (dev < 0)
		return -errno;
	err = set_format(dev, V4L2_BUF_TYPE_VIDEO_OUTPUT, &out);
	if (!err && out.size > picture->size)
		err = -EMSGSIZE;
	if (!err)
		err = stream(dev, V4L2_BUF_TYPE_VIDEO_OUTPUT, fds, &out);
	close(dev);
	return err;
}

int video_pin(const char *device, int fd)
{
	struct v4l2_requestbuffers request = {
		.count = 1,
		.type = V4L2_BUF_TYPE_VIDEO_CAPTURE,
		.memory = V4L2_MEMORY_DMABUF,
	};
	int dev = open(device, O_RDWR | O_NONBLOCK | O_CLOEXEC), err;
	struct picture picture;

	if (dev < 0)
		return -errno;
	err = set_format(dev, V4L2_BUF_TYPE_VIDEO_CAPTURE, &picture);
	if (!err && ioctl(dev, VIDIOC_REQBUFS, &request))
		err = -errno;
	return err ?: queue(dev, V4L2_BUF_TYPE_VIDEO_CAPTURE, 0, fd, &picture);
}

int video_publish(int fd, const char *name, const struct picture *picture)
{
	struct virtio_dmabuf_ioc_publish publish = {
		.fd = fd,
		.format = {
			.fourcc = picture->fourcc,
			.width = picture->width,
			.height = picture->height,
			.num_planes = 1,
			.stride = { picture->stride },
		},
	};
	int dev = device_open(O_RDWR), err;

	if (dev < 0)
		return dev;
	memcpy(publish.name, name, strlen(name));
	err = ioctl(dev, VIRTIO_DMABUF_IOC_PUBLISH, &publish) ? -errno : 0;
	close(dev);
	return err;
}
