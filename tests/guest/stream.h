/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Streams in guest-check.
 *
 * stream.c          consuming, producing, listing
 * stream_negative.c what must fail, and how ends tell each other
 * stream_blocked.c  who waits when the device goes away
 * stream_fenced.c   frames that come with their fences, asked for in lockstep
 * events.c          who is told that there is one
 */
#ifndef STREAM_H
#define STREAM_H

#include "guest-check.h"

/* An end. All functions return 0 or -errno. */
struct stream {
	int fd;
	uint32_t max_held;
	struct virtio_dmabuf_ioc_format format;
};

/* @depth 0: the newest frame only. @flags: O_NONBLOCK, or FENCES: frames come with their fences. */
#define FENCES 1
int stream_open_as(int dev, const char *name, uint32_t depth, uint32_t flags, struct stream *stream);
int stream_create(int dev, const char *name, uint32_t flags, struct stream *stream);
int stream_acquire(const struct stream *stream, struct virtio_dmabuf_ioc_frame *frame);
int stream_give_back(const struct stream *stream, uint64_t sequence);
int stream_add(const struct stream *stream, int dmabuf, uint32_t *index);
int stream_queue(const struct stream *stream, uint32_t index, uint64_t *sequence);
int stream_reclaim(const struct stream *stream, uint32_t *index);
/* Asks for one of the stream's buffers, and maps it, unless that was done before. */
int stream_buffer(const struct stream *stream, uint32_t index, struct buffer *buf);
/* What poll() tells within @ms, as POLL* bits: @events, POLLHUP, POLLERR. */
int stream_poll(const struct stream *stream, short events, int ms);
/* A dma-buf from a heap of the host, or -errno. */
int heap_buffer(const char *heap, uint64_t size);

/* Subcommands: args as in usage. 0, or -errno and @what has failed. */
int stream_list(int dev);
int stream_stats(int dev, const char *name);
int stream_consume(int dev, const char *name, uint32_t depth, uint64_t count, const char **what);
int stream_produce(int dev, const char *name, const char *heap, uint32_t buffers, uint64_t count,
		   uint32_t fps, const char **what);
/* @rounds: how often one buffer goes to and fro. */
void stream_negative(int dev, const char *name, const char *heap, uint64_t rounds,
		     report_fn *report, void *arg);
void stream_blocked(int dev, report_fn *report, void *arg);
/* Makes @count streams: one file hears of each at once, another of the last ones. */
void events(int dev, const char *prefix, uint64_t count, report_fn *report);
/* 0, -errno, or -ENOSYS for a command that isn't one of these. */
int stream_command(int dev, char **word, say_fn *say);

#endif
