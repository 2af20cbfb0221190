// SPDX-License-Identifier: GPL-2.0-only
/*
 * fence-source: a host process that has buffers, and puts fences on them.
 *
 * Commands are lines on stdin; each is answered by a line, "ok ..." or
 * "err ERRNO-NAME". Everything ends with the process.
 *
 *   alloc HEAP SIZE NAME   ok ID: a new, published buffer
 *   open NAME              ok ID
 *   attach ID r|w          ok FENCE: a vgem fence of a reader or writer; it ends after 10 s
 *   attach_all             ok COUNT: a writer's on every buffer
 *   error_attach ID r|w    ok FENCE: one of error_fence.ko
 *   signal FENCE [ERRNO]   ERRNO for those of error_fence.ko
 *   signal_all             ok COUNT: in random order
 *   poll ID r|w MS         ok ready|busy MILLISECONDS
 *   stream NAME ID         ok 0: a stream with this buffer, which was allocated
 *   queue                  ok SEQUENCE: its next frame, FENCED
 *   released MS            ok VALUE: of the next RELEASE
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fence-source.h"

#define BUFFERS	256

static int buffers[BUFFERS];
/* Of those that were allocated */
static uint64_t handles[BUFFERS];
static int used;

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ULL + now.tv_nsec / 1000000;
}

static int keep(int dmabuf, uint64_t handle)
{
	if (dmabuf < 0)
		return dmabuf;
	if (used == BUFFERS)
		return -EMFILE;
	buffers[used] = dmabuf;
	handles[used] = handle;
	return used++;
}

static int buffer_of(const char *text)
{
	int id = text ? atoi(text) : -1;

	return id >= 0 && id < used ? buffers[id] : -1;
}

static int attach_all(void)
{
	int fence;

	for (int i = 0; i < used; i++) {
		fence = vgem_attach(buffers[i], true);
		if (fence < 0)
			return fence;
	}
	return used;
}

static int poll_one(int dmabuf, bool write, int ms, bool *ready)
{
	struct pollfd pfd = { .fd = dmabuf, .events = write ? POLLOUT : POLLIN };
	uint64_t start = now_ms();

	*ready = poll(&pfd, 1, ms) == 1;
	return now_ms() - start;
}

static int run(int broker, char **word, const char **more)
{
	const char *name = word[0];
	bool write = word[2] && *word[2] == 'w', ready;
	int dmabuf, result;
	uint64_t value = 0;

	if (!strcmp(name, "alloc") && word[3]) {
		result = broker_alloc(broker, word[1], strtoull(word[2], NULL, 0), word[3], &value);
		return keep(result, value);
	}
	if (!strcmp(name, "open") && word[1])
		return keep(broker_open(broker, word[1]), 0);
	if (!strcmp(name, "stream") && buffer_of(word[2]) >= 0)
		return broker_stream(broker, word[1], handles[atoi(word[2])]);
	if (!strcmp(name, "queue"))
		return broker_queue(broker);
	if (!strcmp(name, "attach_all"))
		return attach_all();
	if (!strcmp(name, "signal") && word[1])
		return fence_signal(atoi(word[1]), word[2] ? atoi(word[2]) : 0);
	if (!strcmp(name, "signal_all"))
		return fence_signal_all();
	if (!strcmp(name, "released") && word[1]) {
		result = broker_released(broker, atoi(word[1]), &value);
		return result ?: (int)value;
	}
	dmabuf = buffer_of(word[1]);
	if (dmabuf < 0)
		return -EBADF;
	if (!strcmp(name, "attach"))
		return vgem_attach(dmabuf, write);
	if (!strcmp(name, "error_attach"))
		return error_attach(dmabuf, write);
	if (strcmp(name, "poll") || !word[3])
		return -EINVAL;
	result = poll_one(dmabuf, write, atoi(word[3]), &ready);
	*more = ready ? "ready " : "busy ";
	return result;
}

int main(int argc, char **argv)
{
	int broker = broker_connect(argc > 1 ? argv[1] : "/run/dmabuf/broker.sock");
	char line[256];

	if (broker < 0) {
		fprintf(stderr, "fence-source: %s\n", strerrorname_np(-broker));
		return 2;
	}
	while (fgets(line, sizeof(line), stdin)) {
		char *save, *word[4] = { 0 };
		const char *more = "";
		int result = -EINVAL;

		for (int i = 0; i < 4; i++)
			word[i] = strtok_r(i ? NULL : line, " \n", &save);
		if (word[0])
			result = run(broker, word, &more);
		if (result < 0)
			printf("err %s\n", strerrorname_np(-result) ?: "unknown");
		else
			printf("ok %s%d\n", more, result);
		fflush(stdout);
	}
	return 0;
}
