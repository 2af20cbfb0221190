// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who waits on files of streams when the device goes away: a reader, a poller, one
 * who reclaims. Says `blocked` when all three wait; a line on stdin says that the
 * device is there again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stream.h"

#define QUIET "guest/quiet"

struct waiter {
	const struct stream *stream;
	int (*wait)(const struct stream *stream);
	_Atomic pid_t tid;
	pthread_t thread;
	int result;
};

static int wait_read(const struct stream *stream)
{
	struct virtio_dmabuf_ioc_frame frame;

	return stream_acquire(stream, &frame);
}

static int wait_poll(const struct stream *stream)
{
	struct pollfd now = { .fd = stream->fd, .events = POLLIN };

	return poll(&now, 1, -1) == 1 ? now.revents : -errno;
}

static int wait_reclaim(const struct stream *stream)
{
	uint32_t index;

	return stream_reclaim(stream, &index);
}

static void *waiter(void *arg)
{
	struct waiter *own = arg;

	own->tid = gettid();
	own->result = own->wait(own->stream);
	return NULL;
}

static bool sleeps(pid_t tid)
{
	char path[64], text[256], *end;
	FILE *file;
	size_t len;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	file = fopen(path, "re");
	if (!file)
		return false;
	len = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[len] = 0;
	end = strrchr(text, ')');
	return end && end[1] && end[2] == 'S';
}

/* A thread sleeps for a moment in a request, too: three looks in a row. */
static void start(struct waiter *own)
{
	pthread_create(&own->thread, NULL, waiter, own);
	for (int looks = 0; looks < 3; usleep(20000))
		looks = own->tid && sleeps(own->tid) ? looks + 1 : 0;
}

static void on_signal(int sig)
{
	(void)sig;
}

static int interrupted(const struct stream *stream, int (*wait)(const struct stream *stream))
{
	struct sigaction action = { .sa_handler = on_signal };
	struct waiter one = { .stream = stream, .wait = wait };

	sigaction(SIGUSR1, &action, NULL);
	start(&one);
	pthread_kill(one.thread, SIGUSR1);
	pthread_join(one.thread, NULL);
	return one.result;
}

static void expect(report_fn *report, void *arg, const char *name, int got, int want)
{
	report(name, got == -want, errno_name(got), arg);
}

/* The session of these files is over, whatever has begun since. */
static void stale(const struct stream *producer, const struct stream *consumer, report_fn *report,
		  void *arg)
{
	uint64_t sequence;
	char value[16];

	expect(report, arg, "stale_read", wait_read(consumer), EIO);
	expect(report, arg, "stale_release", stream_give_back(consumer, 1), EIO);
	expect(report, arg, "stale_reclaim", wait_reclaim(producer), EIO);
	expect(report, arg, "stale_queue", stream_queue(producer, 0, &sequence), EIO);
	snprintf(value, sizeof(value), "%#x", stream_poll(producer, 0, 0));
	report("stale_poll", !!(stream_poll(producer, 0, 0) & POLLHUP), value, arg);
}

void stream_blocked(int dev, report_fn *report, void *arg)
{
	struct stream producer, consumer;
	struct waiter waiters[] = {
		{ .stream = &consumer, .wait = wait_read },
		{ .stream = &consumer, .wait = wait_poll },
		{ .stream = &producer, .wait = wait_reclaim },
	};
	char line[16], value[16];

	expect(report, arg, "quiet_create", stream_create(dev, QUIET, 0, &producer), 0);
	expect(report, arg, "quiet_open", stream_open_as(dev, QUIET, 0, 0, &consumer), 0);
	/* From now on only these two files keep the module. */
	close(dev);
	expect(report, arg, "read_interrupted", interrupted(&consumer, wait_read), EINTR);
	expect(report, arg, "reclaim_interrupted", interrupted(&producer, wait_reclaim), EINTR);
	for (int i = 0; i < 3; i++)
		start(&waiters[i]);
	puts("blocked");
	fflush(stdout);
	for (int i = 0; i < 3; i++)
		pthread_join(waiters[i].thread, NULL);
	expect(report, arg, "blocked_read", waiters[0].result, EIO);
	snprintf(value, sizeof(value), "%#x", waiters[1].result);
	report("blocked_poll", waiters[1].result > 0 && (waiters[1].result & POLLHUP) &&
	       (waiters[1].result & POLLERR), value, arg);
	expect(report, arg, "blocked_reclaim", waiters[2].result, EIO);
	puts("ended");
	fflush(stdout);
	if (fgets(line, sizeof(line), stdin))
		stale(&producer, &consumer, report, arg);
}
