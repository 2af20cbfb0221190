/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * heap-check: the host's heaps as a guest's programs use them.
 *
 * heap-check.c  the subcommands
 * video.c       V4L2 into and out of such buffers
 */
#ifndef HEAP_CHECK_H
#define HEAP_CHECK_H

#include <stdint.h>

#define CAPTURE_BUFFERS 3

/* What a camera has put into a buffer. */
struct picture {
	uint32_t fourcc, width, height, stride, size;
};

/* All of these return 0 or -errno. */
int heap_alloc(int heap, uint64_t len, uint32_t fd_flags, int *fd);
/* Captures until every one of CAPTURE_BUFFERS new buffers has a frame. */
int video_capture(const char *device, int heap, int *fds, struct picture *picture);
/* Gives each of them to an output device. */
int video_output(const char *device, const int *fds, const struct picture *picture);
/* Leaves a buffer with a device, which keeps the kernel's mapping of it. */
int video_pin(const char *device, int fd);
int video_publish(int fd, const char *name, const struct picture *picture);

#endif
