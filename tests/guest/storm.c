// SPDX-License-Identifier: GPL-2.0-only
/* Many waits, races, threads that wait, and calls that must fail: the larger commands of fence.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "fence.h"

/* Many waits */

static int storm_first;

int storm_begin(int dev, struct buffer **open, size_t buffers, int count, int ms)
{
	struct rlimit many = { .rlim_cur = FENCES + 1024, .rlim_max = FENCES + 1024 };
	size_t opened = 0;
	int fd;

	if (setrlimit(RLIMIT_NOFILE, &many))
		return -errno;
	while (opened < buffers && open[opened])
		opened++;
	if (!opened)
		return -EBADF;
	storm_first = fence_count;
	for (int i = 0; i < count; i++) {
		fd = fence_make(dev, open[rand() % opened], VIRTIO_DMABUF_USAGE_READ, ms);
		fd = fd < 0 ? fd : fence_keep(fd);
		if (fd < 0)
			return fd;
	}
	return 0;
}

/* With O_NONBLOCK a full queue is EAGAIN; what was made until then is given up again. */
int storm_full(int dev, const struct buffer *buf, say_fn *say)
{
	int first = fence_count, fd = 0, flags = fcntl(dev, F_GETFL);

	if (flags < 0 || fcntl(dev, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	while (fd >= 0) {
		fd = fence_make(dev, buf, VIRTIO_DMABUF_USAGE_READ, 0);
		fd = fd < 0 ? fd : fence_keep(fd);
	}
	fcntl(dev, F_SETFL, flags);
	say(" %d %s", fence_count - first, errno_name(fd));
	while (fence_count > first)
		close(fence_files[--fence_count]);
	return 0;
}

int storm_end(int ms, say_fn *say)
{
	uint64_t end = now_us() + ms * 1000ULL, now;
	int signalled = 0, others = 0;

	for (int i = storm_first; i < fence_count; i++) {
		now = now_us();
		becomes_ready(fence_files[i], POLLIN, now < end ? (int)((end - now) / 1000) : 0);
		*(fence_status(fence_files[i]) == 1 ? &signalled : &others) += 1;
		close(fence_files[i]);
		fence_files[i] = 0;
	}
	fence_count = storm_first;
	say(" %d %d", signalled, others);
	return 0;
}

/* A cancel that races the signal */

struct racer {
	int dev;
	const struct buffer *buf;
	pthread_barrier_t start, end;
	/* How long after the start, ns: the one or the other is late. */
	long release, cancel;
	bool stop;
};

static void late(long ns)
{
	struct timespec pause = { .tv_nsec = ns };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
}

static void *race_release(void *arg)
{
	struct racer *racer = arg;

	for (;;) {
		pthread_barrier_wait(&racer->start);
		if (racer->stop)
			return NULL;
		late(racer->release);
		fence_release(racer->dev, racer->buf, 0);
		pthread_barrier_wait(&racer->end);
	}
}

/* Its end is final, and what cancel said of it is so. 0: signalled, 1: cancelled, 2: wrong. */
static int race_round(struct racer *racer, int round)
{
	long pause = round % 16 * 20000;
	uint32_t ms = 0;
	int file, said, status;

	racer->release = round % 2 ? pause : 0;
	racer->cancel = round % 2 ? 0 : pause;
	if (fence_hold(racer->dev, racer->buf, VIRTIO_DMABUF_USAGE_WRITE, &ms))
		return 2;
	file = fence_make(racer->dev, racer->buf, VIRTIO_DMABUF_USAGE_READ, 0);
	if (file < 0)
		return 2;
	pthread_barrier_wait(&racer->start);
	late(racer->cancel);
	said = fence_cancel(racer->dev, file);
	pthread_barrier_wait(&racer->end);
	becomes_ready(file, POLLIN, 5000);
	status = fence_status(file);
	close(file);
	if (!said && status == -ECANCELED)
		return 1;
	return said == -ENOENT && status == 1 ? 0 : 2;
}

int race(int dev, const struct buffer *buf, int rounds, say_fn *say)
{
	struct racer racer = { .dev = dev, .buf = buf };
	int outcomes[3] = { 0 };
	pthread_t thread;

	pthread_barrier_init(&racer.start, NULL, 2);
	pthread_barrier_init(&racer.end, NULL, 2);
	if (pthread_create(&thread, NULL, race_release, &racer))
		return -EAGAIN;
	for (int round = 0; round < rounds; round++)
		outcomes[race_round(&racer, round)]++;
	racer.stop = true;
	pthread_barrier_wait(&racer.start);
	pthread_join(thread, NULL);
	say(" %d %d %d", outcomes[1], outcomes[0], outcomes[2]);
	return 0;
}

/* A thread that waits for CPU access */

static struct {
	pthread_t thread;
	const struct buffer *buf;
	bool started;
	atomic_bool ended;
	int result;
} blocker;

static void *block_thread(void *arg)
{
	(void)arg;
	blocker.result = buffer_sync(blocker.buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	if (!blocker.result)
		blocker.result = buffer_sync(blocker.buf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	blocker.ended = true;
	return NULL;
}

int block(const struct buffer *buf)
{
	if (blocker.started)
		return -EBUSY;
	blocker.buf = buf;
	blocker.ended = false;
	blocker.started = !pthread_create(&blocker.thread, NULL, block_thread, NULL);
	return blocker.started ? 0 : -EAGAIN;
}

int unblock(int ms)
{
	struct timespec limit;

	if (!blocker.started)
		return -EINVAL;
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += ms / 1000;
	if (pthread_timedjoin_np(blocker.thread, NULL, &limit))
		return -ETIMEDOUT;
	blocker.started = false;
	return blocker.result;
}

static int compare(const void *one, const void *other)
{
	uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;

	return (a > b) - (a < b);
}

int info_us(int dev, int count, say_fn *say)
{
	uint32_t *took = calloc(count > 0 ? count : 1, sizeof(*took));
	struct virtio_dmabuf_ioc_info info;
	int err = took ? 0 : -ENOMEM;

	for (int i = 0; i < count && !err; i++) {
		uint64_t start = now_us();

		err = device_info(dev, &info);
		took[i] = now_us() - start;
	}
	if (!err) {
		qsort(took, count, sizeof(*took), compare);
		say(" %u %u", took[count / 2], took[count - 1]);
	}
	free(took);
	return err;
}

bool blocked(void)
{
	return blocker.started && !blocker.ended;
}

/* Calls that must fail */

int fences_invalid(int dev, const struct buffer *buf, say_fn *say)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	const struct {
		const char *name;
		int want;
		struct virtio_dmabuf_ioc_fence arg;
	} cases[] = {
		{ "no_usage", EINVAL, { .fd = buf->fd } },
		{ "both_usages", EINVAL, { .fd = buf->fd, .usage = 3 } },
		{ "flags", EINVAL, { .fd = buf->fd, .usage = 1, .flags = 2 } },
		{ "reserved", EINVAL, { .fd = buf->fd, .usage = 1, .reserved = 1 } },
		{ "no_fd", EBADF, { .fd = -1, .usage = 1 } },
		{ "no_dma_buf", EINVAL, { .fd = zero, .usage = 1 } },
		{ "write", EACCES, { .fd = buf->fd, .usage = 2 } },
	};
	struct virtio_dmabuf_ioc_hold held = { .fd = buf->fd, .usage = 2 };
	int passed = 0, failed = 0;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct virtio_dmabuf_ioc_fence arg = cases[i].arg;
		int err = ioctl(dev, VIRTIO_DMABUF_IOC_FENCE, &arg) ? errno : 0;

		if (err == cases[i].want) {
			passed++;
			continue;
		}
		failed++;
		say(" %s=%s", cases[i].name, errno_name(err));
	}
	if (fence_cancel(dev, zero) == -EINVAL && fence_cancel(dev, -1) == -EINVAL)
		passed++;
	else
		failed++, say(" cancel");
	if (ioctl(dev, VIRTIO_DMABUF_IOC_HOLD, &held) && errno == EACCES)
		passed++;
	else
		failed++, say(" hold");
	if (buffer_sync(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE) == -EACCES)
		passed++;
	else
		failed++, say(" sync_write");
	close(zero);
	say(" %d %d", passed, failed);
	return 0;
}
