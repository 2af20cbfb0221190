// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
/* A producer and a consumer in one program: what goes in comes out. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "dmabuf_share.h"

#define EXPECT(condition)                                                      \
	do {                                                                   \
		if (!(condition)) {                                            \
			fprintf(stderr, "line %d: %s: %s\n", __LINE__,         \
				#condition, dmabuf_error());                   \
			exit(1);                                               \
		}                                                              \
	} while (0)

int main(int argc, char **argv)
{
	const char *socket = argc > 1 ? argv[1] : NULL;
	struct dmabuf_producer *producer = NULL;
	struct dmabuf_consumer *consumer = NULL;
	struct dmabuf_frame frame;
	uint32_t index = 0;

	EXPECT(dmabuf_consumer_open(socket, "t/c", 0, &consumer) == -ENOENT);
	EXPECT(strlen(dmabuf_error()) > 0);
	EXPECT(dmabuf_consumer_open(socket, NULL, 0, &consumer) == -EINVAL);
	EXPECT(dmabuf_consumer_open(socket, "t/c", 65, &consumer) == -EINVAL);
	EXPECT(dmabuf_consumer_open(socket, "t/c", 0, NULL) == -EINVAL);
	EXPECT(dmabuf_consumer_open("/nowhere", "t/c", 0, &consumer) == -ENOENT);
	EXPECT(dmabuf_consumer_next(NULL, 0, &frame) == -EINVAL);
	EXPECT(dmabuf_producer_create(socket, "no/right", "frames", 2, 4096, &producer) ==
	       -EACCES);
	EXPECT(dmabuf_producer_create(socket, "t/c", "frames", 3, 4096, &producer) ==
	       -EBUSY);
	EXPECT(dmabuf_producer_create(socket, "t/c", "frames", 2, 4096, &producer) == 0);
	EXPECT(dmabuf_consumer_open(socket, "t/c", 4, &consumer) == 0);
	EXPECT(dmabuf_consumer_next(consumer, 0, &frame) == -EAGAIN);
	for (uint64_t round = 1; round <= 100; round++) {
		struct pollfd wait = { dmabuf_consumer_fd(consumer), POLLIN, 0 };
		const unsigned char *seen;
		unsigned char *pixels;
		uint64_t sequence;
		size_t size;

		if (round <= 2)
			index = round - 1;
		else
			EXPECT(dmabuf_producer_reclaim(producer, 5000, &index) == 0);
		pixels = dmabuf_producer_pixels(producer, index, &size);
		EXPECT(pixels && size >= 4096);
		memset(pixels, round, size);
		EXPECT(dmabuf_producer_queue(producer, index, 0, &sequence) == 0);
		EXPECT(sequence == round);
		EXPECT(dmabuf_producer_queue(producer, index, 0, NULL) == -EBUSY);
		EXPECT(poll(&wait, 1, 5000) == 1);
		EXPECT(dmabuf_consumer_next(consumer, 5000, &frame) == 0);
		EXPECT(frame.sequence == round && frame.index == index && !frame.skipped);
		EXPECT(frame.hold_ms > 0 && frame.timestamp_ns > 0 && !frame.fenced);
		seen = dmabuf_consumer_pixels(consumer, frame.sequence, &size);
		EXPECT(seen && seen[0] == (unsigned char)round &&
		       seen[size - 1] == (unsigned char)round);
		EXPECT(dmabuf_consumer_wait(consumer, frame.sequence, 0) == 0);
		EXPECT(dmabuf_consumer_sync_file(consumer, frame.sequence) == -ENOENT);
		EXPECT(dmabuf_consumer_release(consumer, frame.sequence) == 0);
		EXPECT(dmabuf_consumer_wait(consumer, frame.sequence, 0) == -EINVAL);
		EXPECT(dmabuf_consumer_release(consumer, frame.sequence) == -EINVAL);
		EXPECT(!dmabuf_consumer_pixels(consumer, frame.sequence, &size));
	}
	/* Memory without fences: the flag comes through, a sync_file doesn't. */
	EXPECT(dmabuf_producer_reclaim(producer, 5000, &index) == 0);
	EXPECT(dmabuf_producer_queue_fenced(producer, index, 0, 0, NULL) == -ENODEV);
	EXPECT(dmabuf_producer_queue_fenced(producer, index, 0, -1, NULL) == 0);
	EXPECT(dmabuf_consumer_next(consumer, 5000, &frame) == 0 && frame.fenced);
	EXPECT(dmabuf_consumer_sync_file(consumer, frame.sequence) == -ENOENT);
	EXPECT(dmabuf_consumer_wait(consumer, frame.sequence, 5000) == 0);
	EXPECT(dmabuf_consumer_release(consumer, frame.sequence) == 0);
	EXPECT(!dmabuf_producer_pixels(producer, 2, NULL));
	/* Slots of a memfd pool that are all published are sealed. */
	EXPECT(dmabuf_producer_revoke(producer, 100) == -EOPNOTSUPP);
	EXPECT(dmabuf_producer_revoke(NULL, 0) == -EINVAL);
	dmabuf_producer_close(producer);
	EXPECT(dmabuf_consumer_next(consumer, 5000, &frame) == -ENODEV);
	dmabuf_consumer_close(consumer);
	dmabuf_consumer_close(NULL);
	dmabuf_producer_close(NULL);
	puts("100 frames");
	return 0;
}
