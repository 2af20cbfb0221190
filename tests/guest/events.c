// SPDX-License-Identifier: GPL-2.0-only
/* Events, read at once and read too late. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stream.h"

/* As many as a file of the driver keeps. */
#define KEPT 64
/* Longest wait for what comes by an event */
#define SOON 10000

static bool is_of(const struct virtio_dmabuf_ioc_event *event, const char *name)
{
	return event->kind == VIRTIO_DMABUF_EVENT_STREAM_ADDED &&
	       !strncmp((const char *)event->name, name, NAME_LEN);
}

/* Creates a stream, hears of it, and ends it. */
static int change(int dev, int listener, const char *name, struct virtio_dmabuf_ioc_event *event)
{
	struct pollfd ready = { .fd = listener, .events = POLLIN };
	struct stream stream;
	int err = stream_create(dev, name, 0, &stream);

	while (!err) {
		if (poll(&ready, 1, SOON) != 1)
			err = -ETIMEDOUT;
		else if (read(listener, event, sizeof(*event)) != sizeof(*event))
			err = -errno;
		else if (is_of(event, name))
			break;
	}
	if (!err)
		close(stream.fd);
	return err;
}

void events(int dev, const char *prefix, uint64_t count, report_fn *report)
{
	struct virtio_dmabuf_ioc_event heard, late[KEPT + 16];
	int listener = device_open(O_RDWR), sleeper = device_open(O_RDWR | O_NONBLOCK), err = 0;
	char name[NAME_LEN + 1], value[96];
	void *volatile nowhere = NULL;
	bool follows = true;
	ssize_t got;

	for (uint64_t i = 0; i < count && !err; i++) {
		snprintf(name, sizeof(name), "%s%" PRIu64, prefix, i);
		err = change(dev, listener, name, &heard);
	}
	report("events_heard", !err, errno_name(err), NULL);
	/* As many as fit, and no part of one. */
	got = read(sleeper, late, sizeof(late) - 1) / (ssize_t)sizeof(late[0]);
	for (ssize_t i = 1; i < got; i++)
		follows = follows && late[i].sequence == late[i - 1].sequence + 1;
	if (got > 0 && !err)
		snprintf(value, sizeof(value), "%zd events, to %" PRIu64 " of %" PRIu64, got,
			 (uint64_t)late[got - 1].sequence, (uint64_t)heard.sequence);
	else
		snprintf(value, sizeof(value), "%zd", got);
	report("events_oldest_lost", got == KEPT && follows && !err &&
	       late[KEPT - 1].sequence == heard.sequence && is_of(&late[KEPT - 1], name), value, NULL);
	got = read(sleeper, late, sizeof(late));
	report("events_no_more", got < 0 && errno == EAGAIN, errno_name(errno), NULL);
	/* Nothing is lost by a reader's mistake. */
	err = change(dev, listener, name, &heard);
	got = read(sleeper, nowhere, sizeof(late));
	report("events_to_nowhere", got < 0 && errno == EFAULT, errno_name(errno), NULL);
	got = read(sleeper, late, sizeof(late));
	report("events_still_there", !err && got == sizeof(late[0]) && is_of(late, name), errno_name(err),
	       NULL);
	close(sleeper);
	close(listener);
}
