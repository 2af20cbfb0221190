/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Streams of vhost-device-dmabuf, for C and C++: link with -ldmabuf_share.
 *
 * Functions that return int return 0, or a negative errno; dmabuf_error() then
 * has a sentence. An object is for one thread at a time. What a pointer to
 * pixels points to is shared memory: others change it at any time after the
 * frame's hold has ended.
 *
 * The protocol is protocol/SPEC.md, "Device operation: streams".
 */
#ifndef DMABUF_SHARE_H
#define DMABUF_SHARE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The end that gets frames, with a connection of its own */
struct dmabuf_consumer;
/* The end that queues frames, with a connection of its own */
struct dmabuf_producer;

/*
 * A frame that a consumer holds.
 * sequence:     counts up by 1 from 1 over the life of the stream
 * timestamp_ns: when it was captured, CLOCK_MONOTONIC
 * skipped:      frames that this consumer has not got so far
 * index:        of its buffer
 * ready:        frames that are ready after this one
 * hold_ms:      time until the hold ends by itself
 * fenced:       1: hardware may still be writing: dmabuf_consumer_wait()
 */
struct dmabuf_frame {
	uint64_t sequence;
	uint64_t timestamp_ns;
	uint64_t skipped;
	uint32_t index;
	uint32_t ready;
	uint32_t hold_ms;
	uint32_t fenced;
};

/* What the last function of this thread that failed has to say; never NULL. */
const char *dmabuf_error(void);

/*
 * Become a consumer of a stream. depth: how many frames may wait (1 to 64);
 * 0: only the newest. socket: the broker's, or NULL for the usual place.
 * -EACCES: no grant; -ENOENT: no such stream.
 */
int dmabuf_consumer_open(const char *socket, const char *stream, uint32_t depth,
			 struct dmabuf_consumer **consumer);
/* Gives everything back. NULL is allowed. */
void dmabuf_consumer_close(struct dmabuf_consumer *consumer);
/* An fd to poll for POLLIN: then call dmabuf_consumer_next() until -EAGAIN. */
int dmabuf_consumer_fd(const struct dmabuf_consumer *consumer);
/*
 * The next frame, held from now on. timeout_ms 0 doesn't wait.
 * -EAGAIN: none came; -ENODEV: the stream has ended; -EBUSY: too many held.
 */
int dmabuf_consumer_next(struct dmabuf_consumer *consumer, uint32_t timeout_ms,
			 struct dmabuf_frame *frame);
/*
 * The bytes of the buffer of a frame that is held, mapped read-only: once, and
 * valid until the consumer is closed. NULL: see dmabuf_error().
 */
const void *dmabuf_consumer_pixels(struct dmabuf_consumer *consumer,
				   uint64_t sequence, size_t *size);
/*
 * Waits until the hardware has finished with a frame that is held; 0 at once if
 * it isn't fenced. -EAGAIN: not within the time; another error: the fence's own,
 * and the frame is spoilt.
 */
int dmabuf_consumer_wait(struct dmabuf_consumer *consumer, uint64_t sequence,
			 uint32_t timeout_ms);
/*
 * The sync_file of a fenced frame that is held, for poll() or a device. It is
 * closed when the frame is given back. -ENOENT: there is none, because the frame
 * isn't fenced or the memory is no dma-buf.
 */
int dmabuf_consumer_sync_file(struct dmabuf_consumer *consumer, uint64_t sequence);
/*
 * Gives a frame back. -ESTALE: its hold was over before; what was read of it
 * may have been of a later frame.
 */
int dmabuf_consumer_release(struct dmabuf_consumer *consumer, uint64_t sequence);

/*
 * A new stream of buffers of at least size bytes from a heap, published as
 * STREAM/0, STREAM/1 and so on. All buffers are the producer's at first.
 */
int dmabuf_producer_create(const char *socket, const char *stream, const char *heap,
			   uint32_t buffers, size_t size,
			   struct dmabuf_producer **producer);
/*
 * Ends the stream, and takes its buffers away from everybody who has them:
 * within deadline_ms, 60000 at most. Their bytes are zero then. Close the
 * producer afterwards. -EOPNOTSUPP: the heap's memory is sealed; the stream goes on.
 */
int dmabuf_producer_revoke(struct dmabuf_producer *producer, uint32_t deadline_ms);
/* Ends the stream. NULL is allowed. */
void dmabuf_producer_close(struct dmabuf_producer *producer);
/* An fd to poll for POLLIN after dmabuf_producer_reclaim() said -EAGAIN. */
int dmabuf_producer_fd(const struct dmabuf_producer *producer);
/* The bytes of a buffer. Write only while it is the producer's. */
void *dmabuf_producer_pixels(struct dmabuf_producer *producer, uint32_t index,
			     size_t *size);
/* Hands a frame over. timestamp_ns 0: now. sequence may be NULL. */
int dmabuf_producer_queue(struct dmabuf_producer *producer, uint32_t index,
			  uint64_t timestamp_ns, uint64_t *sequence);
/*
 * Hands a frame over that hardware still writes. sync_file: tells when it has
 * finished; it stays the caller's. -1: the driver has put its fence on the
 * buffer by itself. -EINVAL: no sync_file; -ENODEV: the memory is no dma-buf.
 */
int dmabuf_producer_queue_fenced(struct dmabuf_producer *producer, uint32_t index,
				 uint64_t timestamp_ns, int sync_file,
				 uint64_t *sequence);
/* A buffer that is the producer's again. -EAGAIN: none within the time. */
int dmabuf_producer_reclaim(struct dmabuf_producer *producer, uint32_t timeout_ms,
			    uint32_t *index);

#ifdef __cplusplus
}
#endif

#endif /* DMABUF_SHARE_H */
