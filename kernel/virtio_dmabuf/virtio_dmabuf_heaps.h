/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Names under /dev/dma_heap for the virtio dmabuf guest driver: what
 * virtio_dmabuf_heaps.ko offers to virtio_dmabuf.ko.
 */
#ifndef _VIRTIO_DMABUF_HEAPS_H
#define _VIRTIO_DMABUF_HEAPS_H

#include <linux/types.h>

struct dma_buf;
struct vdmabuf_heap_node;

/**
 * typedef vdmabuf_heap_allocate_t - allocates a buffer
 * @source: what the heap was attached with
 * @name: the heap's name, which stays
 * @len: bytes wanted, whole pages
 * @fd_flags: flags of the file to be
 *
 * Return: a dma-buf with a reference, or an error pointer.
 */
typedef struct dma_buf *(*vdmabuf_heap_allocate_t)(void *source, const char *name,
						   unsigned long len, u32 fd_flags);

/**
 * struct vdmabuf_heaps_api - taken by symbol_get(), so that the driver loads without it
 * @attach: makes /dev/dma_heap/virtio-NAME, or virtioN-NAME if that is another
 *	    device's, allocate from @source. May sleep. Returns the heap;
 *	    -EOPNOTSUPP if this kernel lets no module add heaps; another error
 * @detach: from now on the heap answers ENODEV. Waits for what it is allocating
 * @name: the heap's name under /dev/dma_heap
 */
struct vdmabuf_heaps_api {
	struct vdmabuf_heap_node *(*attach)(const char *name,
					    vdmabuf_heap_allocate_t allocate, void *source);
	void (*detach)(struct vdmabuf_heap_node *node);
	const char *(*name)(const struct vdmabuf_heap_node *node);
};

extern const struct vdmabuf_heaps_api vdmabuf_heaps_api;

#endif /* _VIRTIO_DMABUF_HEAPS_H */
