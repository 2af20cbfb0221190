// SPDX-License-Identifier: GPL-2.0-only
/* Both ends of streams. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/dma-heap.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stream.h"

#define BUFFERS VIRTIO_DMABUF_STREAM_BUFFERS
/* What `produce` makes: one plane of bytes */
#define WIDTH 256
#define HEIGHT 64

int stream_open_as(int dev, const char *name, uint32_t depth, uint32_t flags, struct stream *stream)
{
	struct virtio_dmabuf_ioc_stream_open arg = {
		.mode = depth ? VIRTIO_DMABUF_MODE_FIFO : VIRTIO_DMABUF_MODE_LATEST,
		.depth = depth,
		.flags = (flags & O_NONBLOCK) | O_CLOEXEC,
		.options = flags & FENCES ? VIRTIO_DMABUF_STREAM_FENCES : 0,
	};

	if (strlen(name) > NAME_LEN)
		return -EINVAL;
	memcpy(arg.name, name, strlen(name));
	if (ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_OPEN, &arg))
		return -errno;
	stream->fd = arg.fd;
	stream->max_held = arg.max_held;
	stream->format = arg.format;
	return 0;
}

int stream_create(int dev, const char *name, uint32_t flags, struct stream *stream)
{
	struct virtio_dmabuf_ioc_stream_create arg = {
		.flags = flags | O_CLOEXEC,
		.format = {
			.fourcc = 'R' | '8' << 8 | ' ' << 16 | ' ' << 24,
			.width = WIDTH,
			.height = HEIGHT,
			.num_planes = 1,
			.stride = { WIDTH },
		},
	};

	if (strlen(name) > NAME_LEN)
		return -EINVAL;
	memcpy(arg.name, name, strlen(name));
	if (ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_CREATE, &arg))
		return -errno;
	stream->fd = arg.fd;
	stream->format = arg.format;
	return 0;
}

int stream_acquire(const struct stream *stream, struct virtio_dmabuf_ioc_frame *frame)
{
	ssize_t got = read(stream->fd, frame, sizeof(*frame));

	if (got < 0)
		return -errno;
	return got == sizeof(*frame) ? 0 : -ENODATA;
}

int stream_give_back(const struct stream *stream, uint64_t sequence)
{
	struct virtio_dmabuf_ioc_stream_release arg = { .sequence = sequence };

	return ioctl(stream->fd, VIRTIO_DMABUF_IOC_STREAM_RELEASE, &arg) ? -errno : 0;
}

int stream_add(const struct stream *stream, int dmabuf, uint32_t *index)
{
	struct virtio_dmabuf_ioc_stream_add arg = { .fd = dmabuf };

	if (ioctl(stream->fd, VIRTIO_DMABUF_IOC_STREAM_ADD, &arg))
		return -errno;
	*index = arg.index;
	return 0;
}

int stream_queue(const struct stream *stream, uint32_t index, uint64_t *sequence)
{
	struct virtio_dmabuf_ioc_stream_queue arg = { .index = index };

	if (ioctl(stream->fd, VIRTIO_DMABUF_IOC_STREAM_QUEUE, &arg))
		return -errno;
	*sequence = arg.sequence;
	return 0;
}

int stream_reclaim(const struct stream *stream, uint32_t *index)
{
	struct virtio_dmabuf_ioc_stream_reclaim arg;

	if (ioctl(stream->fd, VIRTIO_DMABUF_IOC_STREAM_RECLAIM, &arg))
		return -errno;
	*index = arg.index;
	return 0;
}

int stream_poll(const struct stream *stream, short events, int ms)
{
	struct pollfd now = { .fd = stream->fd, .events = events };

	return poll(&now, 1, ms) == 1 ? now.revents : 0;
}

int heap_buffer(const char *heap, uint64_t size)
{
	struct dma_heap_allocation_data data = { .len = size, .fd_flags = O_RDWR | O_CLOEXEC };
	char path[128];
	int fd, err;

	snprintf(path, sizeof(path), "/dev/dma_heap/%s", heap);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = ioctl(fd, DMA_HEAP_IOCTL_ALLOC, &data) ? -errno : 0;
	close(fd);
	return err ?: (int)data.fd;
}

static void show_stream(const struct virtio_dmabuf_ioc_stream_info *info)
{
	char name[NAME_LEN + 1];

	printf("stream %s id %" PRIu64 " produced %" PRIu64 " buffers %u consumers %u format %.4s %ux%u\n",
	       printable(info->name, name), (uint64_t)info->id, (uint64_t)info->produced,
	       info->buffers, info->consumers,
	       info->format.fourcc ? (const char *)&info->format.fourcc : "-", info->format.width,
	       info->format.height);
}

int stream_list(int dev)
{
	struct virtio_dmabuf_ioc_stream_info page[2];
	struct virtio_dmabuf_ioc_list list = { .entries = (uintptr_t)page };

	do {
		list.count = sizeof(page) / sizeof(page[0]);
		if (ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_LIST, &list))
			return -errno;
		for (uint32_t i = 0; i < list.count; i++)
			show_stream(&page[i]);
		list.cursor = list.next;
	} while (list.next);
	return 0;
}

static void show_consumer(const struct virtio_dmabuf_ioc_consumer *c, uint64_t produced)
{
	char peer[NAME_LEN + 1];
	bool exact = produced - c->joined == c->delivered + c->skipped + c->ready;

	printf("consumer %s mode %u depth %u joined %" PRIu64 " delivered %" PRIu64 " skipped %" PRIu64
	       " expired %" PRIu64 " ready %u held %u %s\n",
	       printable(c->peer, peer), c->mode, c->depth, (uint64_t)c->joined,
	       (uint64_t)c->delivered, (uint64_t)c->skipped, (uint64_t)c->expired, c->ready, c->held,
	       exact ? "exact" : "WRONG");
}

int stream_stats(int dev, const char *name)
{
	struct virtio_dmabuf_ioc_consumer page[2];
	struct virtio_dmabuf_ioc_stream_stats stats = { .entries = (uintptr_t)page };

	if (strlen(name) > NAME_LEN)
		return -EINVAL;
	memcpy(stats.name, name, strlen(name));
	do {
		stats.count = sizeof(page) / sizeof(page[0]);
		if (ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_STATS, &stats))
			return -errno;
		if (!stats.cursor)
			printf("produced %" PRIu64 " buffers %u with_producer %u free %u consumers %u\n",
			       (uint64_t)stats.produced, stats.buffers, stats.with_producer,
			       stats.free, stats.consumers);
		for (uint32_t i = 0; i < stats.count; i++)
			show_consumer(&page[i], stats.produced);
		stats.cursor = stats.next;
	} while (stats.next);
	return 0;
}

/* Up to the end of the last plane; planes after the first have half the lines. */
static uint64_t frame_bytes(const struct virtio_dmabuf_ioc_format *format, uint64_t size)
{
	uint64_t end = 0;

	for (uint32_t i = 0; i < format->num_planes && i < 4; i++) {
		uint64_t lines = i ? (format->height + 1) / 2 : format->height;
		uint64_t plane = format->offset[i] + format->stride[i] * lines;

		if (plane > end)
			end = plane;
	}
	return end && end < size ? end : size;
}

int stream_buffer(const struct stream *stream, uint32_t index, struct buffer *buf)
{
	struct virtio_dmabuf_ioc_stream_buffer arg = { .index = index, .flags = O_CLOEXEC };

	if (buf->map)
		return 0;
	if (ioctl(stream->fd, VIRTIO_DMABUF_IOC_STREAM_BUFFER, &arg))
		return -errno;
	buf->fd = arg.fd;
	buf->size = arg.size;
	buf->map = mmap(NULL, arg.size, PROT_READ, MAP_SHARED, arg.fd, 0);
	if (buf->map != MAP_FAILED)
		return 0;
	buf->map = NULL;
	return -errno;
}

static int show_frame(const struct stream *stream, const struct virtio_dmabuf_ioc_frame *frame,
		      struct buffer *buffers, const char **what)
{
	struct buffer *buf = &buffers[frame->index % BUFFERS];
	uint32_t crc;
	int err;

	*what = "buffer";
	err = stream_buffer(stream, frame->index, buf);
	if (err)
		return err;
	*what = "crc";
	err = buffer_crc(buf, frame_bytes(&stream->format, buf->size), &crc);
	if (err)
		return err;
	*what = "release";
	err = stream_give_back(stream, frame->sequence);
	/* What was read after the hold's end doesn't count. */
	if (err == -ESTALE)
		return 0;
	if (!err)
		printf("%" PRIu64 " %" PRIu64 " %08x %" PRIu64 "\n", (uint64_t)frame->sequence,
		       (uint64_t)frame->timestamp_ns, crc, (uint64_t)frame->skipped);
	fflush(stdout);
	return err;
}

int stream_consume(int dev, const char *name, uint32_t depth, uint64_t count, const char **what)
{
	struct buffer buffers[BUFFERS] = { 0 };
	struct virtio_dmabuf_ioc_frame frame;
	struct stream stream;
	int err;

	*what = "open";
	err = stream_open_as(dev, name, depth, 0, &stream);
	if (err)
		return err;
	for (uint64_t i = 0; !count || i < count; i++) {
		*what = "read";
		err = stream_acquire(&stream, &frame);
		if (err == -ENODATA) {
			puts("end");
			return count ? err : 0;
		}
		if (!err)
			err = show_frame(&stream, &frame, buffers, what);
		if (err)
			return err;
	}
	return 0;
}

static volatile sig_atomic_t told_to_end;

static void on_term(int sig)
{
	(void)sig;
	told_to_end = 1;
}

/* Its bytes are different in each frame. */
static int draw(struct buffer *buf, uint64_t number, uint32_t *crc)
{
	static uint8_t picture[HEIGHT][WIDTH];
	int err;

	for (uint32_t y = 0; y < HEIGHT; y++)
		for (uint32_t x = 0; x < WIDTH; x++)
			picture[y][x] = x + 3 * y + 7 * number + (number >> 8);
	err = buffer_put(buf, 0, picture, sizeof(picture));
	return err ?: buffer_crc(buf, sizeof(picture), crc);
}

/* A buffer of the stream, which the host can look at by its name, too. */
static int add_buffer(int dev, const struct stream *stream, const char *name, const char *heap,
		      struct buffer *buf)
{
	struct virtio_dmabuf_ioc_publish publish = { 0 };
	uint32_t index = 0;
	int err;

	buf->size = WIDTH * HEIGHT;
	buf->writable = true;
	buf->fd = heap_buffer(heap, buf->size);
	if (buf->fd < 0)
		return buf->fd;
	buf->map = mmap(NULL, buf->size, PROT_READ | PROT_WRITE, MAP_SHARED, buf->fd, 0);
	if (buf->map == MAP_FAILED)
		return -errno;
	err = stream_add(stream, buf->fd, &index);
	if (err)
		return err;
	snprintf(buf->name, sizeof(buf->name), "%.40s/%u", name, index);
	memcpy(publish.name, buf->name, strlen(buf->name));
	publish.fd = buf->fd;
	return ioctl(dev, VIRTIO_DMABUF_IOC_PUBLISH, &publish) ? -errno : 0;
}

static int produce(const struct stream *stream, struct buffer *buffers, uint32_t own,
		   uint64_t count, uint32_t fps, const char **what)
{
	struct timespec pause = { .tv_nsec = 1000000000L / fps };
	uint64_t sequence = 0;
	uint32_t index, crc;
	int err;

	for (uint64_t i = 0; i < count && !told_to_end; i++) {
		*what = "reclaim";
		index = i;
		err = i < own ? 0 : stream_reclaim(stream, &index);
		if (err)
			return err;
		*what = "draw";
		err = draw(&buffers[index % BUFFERS], i, &crc);
		if (err)
			return err;
		*what = "queue";
		err = stream_queue(stream, index, &sequence);
		if (err)
			return err;
		printf("%" PRIu64 " %u %08x\n", sequence, index, crc);
		fflush(stdout);
		/* The camera's pace */
		nanosleep(&pause, NULL);
	}
	return 0;
}

static void withdraw(int dev, const struct buffer *buf)
{
	struct virtio_dmabuf_ioc_withdraw arg = { 0 };

	memcpy(arg.name, buf->name, strlen(buf->name));
	ioctl(dev, VIRTIO_DMABUF_IOC_WITHDRAW, &arg);
}

/* When all frames are queued it waits to be told to end. */
int stream_produce(int dev, const char *name, const char *heap, uint32_t buffers, uint64_t count,
		   uint32_t fps, const char **what)
{
	struct sigaction action = { .sa_handler = on_term };
	struct buffer bufs[BUFFERS] = { 0 };
	struct stream stream;
	sigset_t term, old;
	int err;

	if (!buffers || buffers > BUFFERS || fps < 2 || fps > 1000)
		return -EINVAL;
	sigaction(SIGTERM, &action, NULL);
	*what = "create";
	err = stream_create(dev, name, 0, &stream);
	*what = "add";
	for (uint32_t i = 0; i < buffers && !err; i++)
		err = add_buffer(dev, &stream, name, heap, &bufs[i]);
	if (!err)
		err = produce(&stream, bufs, buffers, count, fps, what);
	if (err && !told_to_end)
		return err;
	puts("queued");
	fflush(stdout);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, &old);
	while (!told_to_end)
		sigsuspend(&old);
	for (uint32_t i = 0; i < buffers; i++)
		withdraw(dev, &bufs[i]);
	return 0;
}
