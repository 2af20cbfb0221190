/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fence-source: a host process that has buffers, and puts fences on them.
 *
 * main.c    commands, one line each
 * fences.c  vgem's fences, and those of error_fence.ko
 * broker.c  the daemon's socket
 */
#ifndef FENCE_SOURCE_H
#define FENCE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "../../../kernel/virtio_dmabuf/uapi/virtio_dmabuf.h"

/* All functions return 0 or more, or -errno. */

int broker_connect(const char *path);
/* The dma-buf of a new, published buffer, and its handle. */
int broker_alloc(int broker, const char *heap, uint64_t size, const char *name, uint64_t *handle);
/* A stream with one buffer, the only stream of this process; and its next frame, FENCED: its sequence. */
int broker_stream(int broker, const char *name, uint64_t handle);
int broker_queue(int broker);
/* The dma-buf of a buffer that this process may write to. */
int broker_open(int broker, const char *name);
/* The value of the next RELEASE of a buffer that this process has published. */
int broker_released(int broker, int ms, uint64_t *value);

/* Numbers of fences; one on each dma-buf at a time. */
int vgem_attach(int dmabuf, bool write);
int error_attach(int dmabuf, bool write);
int fence_signal(int number, unsigned int error);
/* Those that have not ended yet, in random order. Returns how many. */
int fence_signal_all(void);

#endif
