// SPDX-License-Identifier: GPL-2.0-only
/* What must fail on streams, what ends of one stream tell each other, and that nothing stays. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stream.h"

#define ENDS 64
#define OWN "guest/own"
#define PAGE 4096
/* Longest wait for what comes by an event */
#define SOON 10000

static report_fn *report;
static void *report_arg;

static bool is(const char *name, bool pass, const char *value)
{
	report(name, pass, value, report_arg);
	return pass;
}

static bool expect(const char *name, int got, int want)
{
	return is(name, -got == want || got == want, errno_name(got));
}

static bool equal(const char *name, long long got, long long want)
{
	char value[32];

	snprintf(value, sizeof(value), "%lld", got);
	return is(name, got == want, value);
}

static int outcome(long result)
{
	return result < 0 ? errno : 0;
}

static struct virtio_dmabuf_ioc_stream_open named(const char *name)
{
	struct virtio_dmabuf_ioc_stream_open arg = { .mode = VIRTIO_DMABUF_MODE_LATEST };

	memcpy(arg.name, name, strlen(name));
	return arg;
}

static int try_open(int dev, struct virtio_dmabuf_ioc_stream_open arg)
{
	int got = outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_OPEN, &arg));

	if (!got)
		close(arg.fd);
	return got;
}

static void open_arguments(int dev, const char *live)
{
	struct virtio_dmabuf_ioc_stream_open arg = named(live);

	arg.flags = O_APPEND;
	expect("stream_open_flag", try_open(dev, arg), EINVAL);
	arg = named(live);
	arg.options = 2;
	expect("stream_open_option", try_open(dev, arg), EINVAL);
	arg = named(live);
	arg.mode = 3;
	expect("stream_open_mode", try_open(dev, arg), EINVAL);
	arg.mode = VIRTIO_DMABUF_MODE_FIFO;
	expect("stream_open_fifo_0", try_open(dev, arg), EINVAL);
	arg.depth = 65;
	expect("stream_open_fifo_65", try_open(dev, arg), EINVAL);
	arg = named(live);
	arg.depth = 1;
	expect("stream_open_latest_1", try_open(dev, arg), EINVAL);
	expect("stream_open_empty_name", try_open(dev, named("")), EINVAL);
	arg = named(live);
	arg.name[NAME_LEN - 1] = 'x';
	expect("stream_open_name_after_nul", try_open(dev, arg), EINVAL);
	expect("stream_open_unknown", try_open(dev, named("no-such")), ENOENT);
	expect("stream_open_null", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_OPEN, NULL)), EFAULT);
}

static void other_arguments(int dev, const char *live)
{
	struct virtio_dmabuf_ioc_list list = { 0 };
	struct virtio_dmabuf_ioc_stream_stats stats = { .count = 1 };
	struct virtio_dmabuf_ioc_stream_create create = { .name = "host/x" };

	expect("stream_list_count_0", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_LIST, &list)), EINVAL);
	list.count = 1;
	expect("stream_list_null", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_LIST, &list)), EFAULT);
	expect("stream_stats_no_name", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_STATS, &stats)), EINVAL);
	memcpy(stats.name, "no-such", 7);
	expect("stream_stats_unknown", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_STATS, &stats)), ENOENT);
	stats = (struct virtio_dmabuf_ioc_stream_stats){ .reserved = 1, .count = 1 };
	memcpy(stats.name, live, strlen(live));
	expect("stream_stats_reserved", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_STATS, &stats)), EINVAL);
	expect("stream_create_no_right",
	       outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_CREATE, &create)), EACCES);
	create = (struct virtio_dmabuf_ioc_stream_create){ .name = OWN, .flags = O_APPEND };
	expect("stream_create_flag", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_CREATE, &create)), EINVAL);
	create = (struct virtio_dmabuf_ioc_stream_create){ .name = OWN, .format.fourcc = 1 };
	expect("stream_create_format", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_CREATE, &create)), EINVAL);
}

static ino_t inode(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : st.st_ino;
}

/* A consumer's buffers; gives one of them, opened and not allocated. */
static int consumer_buffers(int dev, const char *live)
{
	struct virtio_dmabuf_ioc_stream_buffer arg = { 0 }, again = { 0 };
	struct stream stream;

	if (!expect("consumer", stream_open_as(dev, live, 0, O_NONBLOCK, &stream), 0))
		return -1;
	arg.index = 64;
	expect("buffer_64", outcome(ioctl(stream.fd, VIRTIO_DMABUF_IOC_STREAM_BUFFER, &arg)), EINVAL);
	arg.index = 63;
	expect("buffer_unknown", outcome(ioctl(stream.fd, VIRTIO_DMABUF_IOC_STREAM_BUFFER, &arg)), EINVAL);
	arg = (struct virtio_dmabuf_ioc_stream_buffer){ .flags = O_RDWR };
	expect("buffer_flag", outcome(ioctl(stream.fd, VIRTIO_DMABUF_IOC_STREAM_BUFFER, &arg)), EINVAL);
	arg = (struct virtio_dmabuf_ioc_stream_buffer){ .enforcement = 5 };
	expect("buffer_enforcement", outcome(ioctl(stream.fd, VIRTIO_DMABUF_IOC_STREAM_BUFFER, &arg)), EINVAL);
	arg = (struct virtio_dmabuf_ioc_stream_buffer){ .fd = -1 };
	expect("buffer", outcome(ioctl(stream.fd, VIRTIO_DMABUF_IOC_STREAM_BUFFER, &arg)), 0);
	expect("buffer_again", outcome(ioctl(stream.fd, VIRTIO_DMABUF_IOC_STREAM_BUFFER, &again)), 0);
	is("buffer_is_one", inode(arg.fd) && inode(arg.fd) == inode(again.fd), "inode");
	expect("buffer_read_only",
	       mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, arg.fd, 0) == MAP_FAILED ? errno : 0, EACCES);
	close(again.fd);
	close(stream.fd);
	return arg.fd;
}

/* The producer's buffers: two of its own, and what it must not have. */
static void add_buffers(const struct stream *own, int opened, const char *heap)
{
	int foreign = heap_buffer("system", PAGE);
	uint32_t index = ~0U;
	uint64_t sequence;
	int fd;

	expect("queue_no_buffer", stream_queue(own, 0, &sequence), EINVAL);
	expect("add_no_fd", stream_add(own, -1, &index), EBADF);
	expect("add_no_dmabuf", stream_add(own, own->fd, &index), EINVAL);
	expect("add_foreign", stream_add(own, foreign, &index), EINVAL);
	expect("add_opened", stream_add(own, opened, &index), EACCES);
	for (uint32_t i = 0; i < 2; i++) {
		fd = heap_buffer(heap, PAGE);
		expect("add", stream_add(own, fd, &index), 0);
		equal("add_index", index, i);
		close(fd);
	}
	close(foreign);
}

static int take_back(int dev, struct virtio_dmabuf_ioc_revoke arg)
{
	return outcome(ioctl(dev, VIRTIO_DMABUF_IOC_REVOKE, &arg));
}

/* What it has opened of its own by the name goes; what it has allocated stays. */
static void revocation_of_opened(int dev, const char *heap)
{
	struct virtio_dmabuf_ioc_publish publish = { .name = OWN };
	struct buffer opened;
	uint32_t word;
	char *bytes;
	int err;

	publish.fd = heap_buffer(heap, PAGE);
	bytes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, publish.fd, 0);
	expect("revoke_publish", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_PUBLISH, &publish)), 0);
	err = buffer_open(dev, OWN, true, &opened);
	if (!expect("revoke_open", err, 0) || !is("revoke_own_mapped", bytes != MAP_FAILED, "own"))
		return;
	bytes[0] = 1;
	err = guarded_load((const volatile uint32_t *)opened.map, &word);
	equal("revoke_opened_sees", err ? err : (int)word, 1);
	expect("revoke_both", take_back(dev, (struct virtio_dmabuf_ioc_revoke){
		.fd = publish.fd, .deadline_ms = 500 }), 0);
	for (int i = 0; i < SOON && !err; i++) {
		usleep(1000);
		err = guarded_load((const volatile uint32_t *)opened.map, &word);
	}
	expect("revoke_takes_opened", err, EFAULT);
	for (int i = 0; i < SOON && *(volatile char *)bytes; i++)
		usleep(1000);
	bytes[0] = 2;
	equal("revoke_leaves_allocated", bytes[0], 2);
	munmap(bytes, PAGE);
	close(publish.fd);
	buffer_close(&opened);
}

/* Only what this guest has allocated can be revoked, once; it stays with the guest, and is zero. */
static void revocation(int dev, int opened, const char *heap)
{
	int foreign = heap_buffer("system", PAGE), own = heap_buffer(heap, PAGE);
	char *bytes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);

	expect("revoke_null", outcome(ioctl(dev, VIRTIO_DMABUF_IOC_REVOKE, NULL)), EFAULT);
	expect("revoke_no_fd", take_back(dev, (struct virtio_dmabuf_ioc_revoke){ .fd = -1 }), EBADF);
	expect("revoke_foreign", take_back(dev, (struct virtio_dmabuf_ioc_revoke){ .fd = foreign }), EINVAL);
	expect("revoke_opened", take_back(dev, (struct virtio_dmabuf_ioc_revoke){ .fd = opened }), EACCES);
	expect("revoke_reserved",
	       take_back(dev, (struct virtio_dmabuf_ioc_revoke){ .fd = own, .reserved = 1 }), EINVAL);
	if (!is("revoke_mapped", bytes != MAP_FAILED, "own"))
		return;
	bytes[0] = 1;
	expect("revoke", take_back(dev, (struct virtio_dmabuf_ioc_revoke){ .fd = own }), 0);
	expect("revoke_twice", take_back(dev, (struct virtio_dmabuf_ioc_revoke){ .fd = own }), ESTALE);
	for (int i = 0; i < SOON && *(volatile char *)bytes; i++)
		usleep(1000);
	equal("revoke_erases", bytes[0], 0);
	bytes[0] = 2;
	equal("revoke_leaves_its_own", bytes[0], 2);
	munmap(bytes, PAGE);
	close(own);
	close(foreign);
}

static int stream_revoke(const struct stream *stream, uint32_t reserved)
{
	struct virtio_dmabuf_ioc_stream_revoke arg = { .deadline_ms = 100, .reserved = reserved };

	return outcome(ioctl(stream->fd, VIRTIO_DMABUF_IOC_STREAM_REVOKE, &arg));
}

/* A stream that is revoked has ended, for all. */
static void revoked_stream(int dev, const char *heap)
{
	int fd = heap_buffer(heap, PAGE);
	struct stream own, consumer;
	uint64_t sequence;
	uint32_t index;

	if (!expect("revoked_create", stream_create(dev, OWN, 0, &own), 0) ||
	    !expect("revoked_add", stream_add(&own, fd, &index), 0) ||
	    !expect("revoked_open", stream_open_as(dev, OWN, 0, 0, &consumer), 0))
		return;
	expect("consumer_revokes", stream_revoke(&consumer, 0), ENOTTY);
	expect("stream_revoke_reserved", stream_revoke(&own, 1), EINVAL);
	expect("stream_revoke", stream_revoke(&own, 0), 0);
	equal("revoked_poll", stream_poll(&consumer, 0, SOON), POLLHUP);
	expect("revoked_reclaim", stream_reclaim(&own, &index), ESTALE);
	expect("revoked_queue", stream_queue(&own, index, &sequence), ESTALE);
	expect("revoked_twice", stream_revoke(&own, 0), ESTALE);
	close(consumer.fd);
	close(own.fd);
	close(fd);
}

static void file_operations(int dev, const struct stream *own, const struct stream *consumer)
{
	struct virtio_dmabuf_ioc_stream_queue queue = { .flags = 2 };
	struct virtio_dmabuf_ioc_frame frame;
	struct stream second;
	uint32_t index;

	expect("create_twice", stream_create(dev, OWN, 0, &second), EEXIST);
	expect("read_short", outcome(read(consumer->fd, &frame, sizeof(frame) - 1)), EINVAL);
	expect("read_nothing", stream_acquire(consumer, &frame), EAGAIN);
	equal("poll_nothing", stream_poll(consumer, POLLIN | POLLOUT, 0), 0);
	expect("write_consumer", outcome(write(consumer->fd, &frame, sizeof(frame))), EINVAL);
	expect("read_producer", outcome(read(own->fd, &frame, sizeof(frame))), EINVAL);
	expect("seek", outcome(lseek(consumer->fd, 0, SEEK_SET)), ESPIPE);
	expect("consumer_reclaims", stream_reclaim(consumer, &index), ENOTTY);
	expect("producer_releases", stream_give_back(own, 1), ENOTTY);
	expect("release_nothing", stream_give_back(consumer, 1), ESTALE);
	expect("queue_flag", outcome(ioctl(own->fd, VIRTIO_DMABUF_IOC_STREAM_QUEUE, &queue)), EINVAL);
	expect("reclaim_own", stream_reclaim(own, &index), EAGAIN);
	equal("poll_reclaim_own", stream_poll(own, POLLIN | POLLOUT, 0), 0);
}

/* Two frames, two consumers: who gets what, and when the producer hears of it. */
static void hand_over(const struct stream *own, const struct stream *fifo, const struct stream *latest)
{
	struct virtio_dmabuf_ioc_frame frames[3];
	uint64_t sequence = 0;
	uint32_t index;

	expect("queue", stream_queue(own, 0, &sequence), 0);
	equal("queue_sequence", sequence, 1);
	equal("poll_frame", stream_poll(fifo, POLLIN | POLLOUT, SOON), POLLIN);
	expect("queue_twice", stream_queue(own, 0, &sequence), EBUSY);
	expect("queue_next", stream_queue(own, 1, &sequence), 0);
	equal("read_two", read(fifo->fd, frames, sizeof(frames)), 2 * sizeof(frames[0]));
	is("read_in_order", frames[0].sequence == 1 && frames[1].sequence == 2, "1 2");
	equal("poll_latest", stream_poll(latest, POLLIN | POLLOUT, SOON), POLLIN);
	expect("read_latest", stream_acquire(latest, &frames[2]), 0);
	is("latest_skips", frames[2].sequence == 2 && frames[2].skipped == 1, "2, 1 skipped");
	expect("read_no_more", stream_acquire(fifo, frames), EAGAIN);
	expect("reclaim_held", stream_reclaim(own, &index), EAGAIN);
	equal("poll_reclaim_held", stream_poll(own, POLLIN | POLLOUT, 0), 0);
	expect("release", stream_give_back(fifo, 1), 0);
	expect("release_twice", stream_give_back(fifo, 1), ESTALE);
	equal("poll_reclaim_free", stream_poll(own, POLLIN | POLLOUT, SOON), POLLOUT);
	expect("reclaim_free", stream_reclaim(own, &index), 0);
	equal("reclaim_index", index, 0);
}

static uint32_t held(int dev)
{
	struct virtio_dmabuf_ioc_consumer all[8];
	struct virtio_dmabuf_ioc_stream_stats stats = {
		.name = OWN, .entries = (uintptr_t)all, .count = 8,
	};
	uint32_t sum = 0;

	if (ioctl(dev, VIRTIO_DMABUF_IOC_STREAM_STATS, &stats))
		return ~0U;
	for (uint32_t i = 0; i < stats.count; i++)
		sum += all[i].held;
	return sum;
}

/* As many as may be held are; then one that can't be copied out, and isn't held. */
static void full(int dev, const struct stream *own, const struct stream *fifo, const char *heap)
{
	struct virtio_dmabuf_ioc_frame frame;
	void *volatile nowhere = NULL;
	int fd = heap_buffer(heap, PAGE);
	uint64_t sequence;
	uint32_t index;

	expect("add_third", stream_add(own, fd, &index), 0);
	close(fd);
	stream_queue(own, 0, &sequence);
	equal("poll_before_that", stream_poll(fifo, POLLIN | POLLOUT, SOON), POLLIN);
	expect("read_to_nowhere", outcome(read(fifo->fd, nowhere, sizeof(frame))), EFAULT);
	equal("nothing_held_by_that", held(dev), 2);
	expect("reclaim_that", stream_reclaim(own, &index), 0);
	stream_queue(own, index, &sequence);
	equal("poll_second", stream_poll(fifo, POLLIN | POLLOUT, SOON), POLLIN);
	expect("read_second", stream_acquire(fifo, &frame), 0);
	stream_queue(own, 2, &sequence);
	equal("poll_full", stream_poll(fifo, POLLIN | POLLOUT, SOON), POLLIN);
	expect("read_full", stream_acquire(fifo, &frame), EBUSY);
	equal("poll_still_full", stream_poll(fifo, POLLIN | POLLOUT, 0), POLLIN);
	expect("release_one", stream_give_back(fifo, 2), 0);
	expect("read_after_release", stream_acquire(fifo, &frame), 0);
	equal("read_that", frame.sequence, sequence);
}

/* Consumers that are closed give back what they hold; a producer that is closed ends the stream. */
static void ends(int dev, const struct stream *own, struct stream *fifo, struct stream *latest)
{
	struct virtio_dmabuf_ioc_frame frame;
	struct stream last;
	uint64_t sequence = 0;
	uint32_t index, buffers = 0;

	while (!stream_reclaim(own, &index))
		buffers++;
	close(fifo->fd);
	close(latest->fd);
	while (buffers < 3 && stream_poll(own, POLLIN | POLLOUT, SOON) & POLLOUT)
		buffers += !stream_reclaim(own, &index);
	equal("closed_gives_back", buffers, 3);
	expect("open_last", stream_open_as(dev, OWN, 3, 0, &last), 0);
	stream_queue(own, 0, &sequence);
	close(own->fd);
	equal("poll_end", stream_poll(&last, 0, SOON), POLLHUP);
	equal("poll_ended", stream_poll(&last, POLLIN | POLLOUT, 0), POLLIN | POLLHUP);
	expect("read_left", stream_acquire(&last, &frame), 0);
	equal("read_left_one", frame.sequence, sequence);
	expect("read_end", stream_acquire(&last, &frame), ENODATA);
	expect("read_end_again", stream_acquire(&last, &frame), ENODATA);
	expect("release_after_end", stream_give_back(&last, sequence), 0);
	expect("open_ended", stream_open_as(dev, OWN, 3, 0, fifo), ENOENT);
	close(last.fd);
}

static void own_stream(int dev, const char *live, const char *heap)
{
	int opened = consumer_buffers(dev, live);
	struct stream own, fifo, latest;

	if (!expect("create", stream_create(dev, OWN, O_NONBLOCK, &own), 0))
		return;
	add_buffers(&own, opened, heap);
	revocation(dev, opened, heap);
	revocation_of_opened(dev, heap);
	close(opened);
	if (!expect("open_fifo", stream_open_as(dev, OWN, 2, O_NONBLOCK, &fifo), 0) ||
	    !expect("open_latest", stream_open_as(dev, OWN, 0, O_NONBLOCK, &latest), 0))
		return;
	file_operations(dev, &own, &fifo);
	hand_over(&own, &fifo, &latest);
	full(dev, &own, &fifo, heap);
	ends(dev, &own, &fifo, &latest);
}

/* What a consumer in a thread has seen, until the stream's end. */
struct seen {
	struct stream stream;
	uint64_t frames;
	uint64_t last;
	uint64_t skipped;
	int err;
};

static void *consumer(void *arg)
{
	struct seen *seen = arg;
	struct virtio_dmabuf_ioc_frame frame;

	while (!(seen->err = stream_acquire(&seen->stream, &frame))) {
		seen->frames++;
		if (frame.sequence <= seen->last)
			return NULL;
		seen->last = frame.sequence;
		seen->skipped = frame.skipped;
		stream_give_back(&seen->stream, frame.sequence);
	}
	return NULL;
}

/* One buffer goes to and fro between those who wait for it: no wake-up may be lost. */
static void ping_pong(int dev, const char *heap, uint64_t rounds)
{
	int fd = heap_buffer(heap, PAGE);
	struct seen seen = { 0 };
	uint64_t sequence = 0;
	struct stream own;
	pthread_t thread;
	uint32_t index;
	char value[64];

	if (!expect("ping_create", stream_create(dev, OWN, 0, &own), 0) ||
	    !expect("ping_add", stream_add(&own, fd, &index), 0) ||
	    !expect("ping_open", stream_open_as(dev, OWN, 1, 0, &seen.stream), 0))
		return;
	pthread_create(&thread, NULL, consumer, &seen);
	while (sequence < rounds && !stream_queue(&own, index, &sequence)) {
		/* Now and then the frame is acquired before it is taken back. */
		if (sequence % 2)
			usleep(500);
		if (stream_reclaim(&own, &index))
			break;
	}
	close(own.fd);
	pthread_join(thread, NULL);
	snprintf(value, sizeof(value), "%llu of %llu, %llu skipped", (unsigned long long)seen.frames,
		 (unsigned long long)sequence, (unsigned long long)seen.skipped);
	is("ping_pong", sequence == rounds && seen.err == -ENODATA && seen.frames > 0 &&
	   seen.frames + seen.skipped <= rounds, value);
	close(seen.stream.fd);
	close(fd);
}

/* As many ends as there may be; one that is closed makes room for the next at once. */
static void many(int dev, const char *live)
{
	struct stream streams[ENDS];
	int count = 0, swaps = 0, err = 0;

	while (count < ENDS && !(err = stream_open_as(dev, live, 0, 0, &streams[count])))
		count++;
	equal("ends", count, ENDS);
	expect("end_65", count < ENDS ? err : stream_open_as(dev, live, 0, 0, &streams[0]), EMFILE);
	for (; swaps < 100 && count == ENDS; swaps++) {
		close(streams[swaps % ENDS].fd);
		if (stream_open_as(dev, live, 0, 0, &streams[swaps % ENDS]))
			break;
	}
	equal("ends_swapped", swaps, 100);
	while (count--)
		close(streams[count].fd);
}

void stream_negative(int dev, const char *name, const char *heap, uint64_t rounds, report_fn *to,
		     void *arg)
{
	report = to;
	report_arg = arg;
	open_arguments(dev, name);
	other_arguments(dev, name);
	own_stream(dev, name, heap);
	revoked_stream(dev, heap);
	ping_pong(dev, heap, rounds);
	many(dev, name);
}
