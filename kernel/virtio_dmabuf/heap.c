// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: the host's heaps as dma-heaps of the guest.
 *
 * Which heaps there are is asked once, when the device is bound. Their names are
 * kept by virtio_dmabuf_heaps.ko; without it, or on a kernel that lets no module
 * add heaps, there are none, and everything else works.
 */
#include <linux/ctype.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/virtio_config.h>

#include "vdmabuf.h"
#include "virtio_dmabuf_heaps.h"

/* Heaps of a device that are used at most */
#define VDMABUF_HEAPS		16

/**
 * struct vdmabuf_heap - one heap of the host
 * @vd: the device
 * @wire_name: its name on the host
 * @node: its name under /dev/dma_heap
 */
struct vdmabuf_heap {
	struct vdmabuf_device *vd;
	__u8 wire_name[VIRTIO_DMABUF_NAME_LEN];
	struct vdmabuf_heap_node *node;
};

/**
 * struct vdmabuf_heaps - all heaps of a device
 * @api: virtio_dmabuf_heaps.ko, held
 * @count: used entries of @heaps
 * @heaps: the heaps
 */
struct vdmabuf_heaps {
	const struct vdmabuf_heaps_api *api;
	unsigned int count;
	struct vdmabuf_heap heaps[VDMABUF_HEAPS];
};

static int vdmabuf_host_alloc(const struct vdmabuf_heap *heap, u64 session, unsigned long len,
			      struct virtio_dmabuf_open_resp *reply)
{
	struct virtio_dmabuf_alloc body = { .size = cpu_to_le64(len) };
	struct vdmabuf_call call = {
		.session = session,
		.op = VIRTIO_DMABUF_ALLOC,
		.body = &body,
		.body_len = sizeof(body),
		.reply = reply,
		.reply_min = sizeof(*reply),
		.reply_max = sizeof(*reply),
	};

	memcpy(body.heap, heap->wire_name, sizeof(body.heap));
	return vdmabuf_call(heap->vd, &call);
}

static struct dma_buf *vdmabuf_heap_allocate(void *source, const char *name,
					     unsigned long len, u32 fd_flags)
{
	struct vdmabuf_heap *heap = source;
	struct vdmabuf_want want = {
		.size = len,
		.access = VIRTIO_DMABUF_RDWR,
		.fd_flags = fd_flags,
		.exporter = name,
		.own = true,
	};
	u64 session = vdmabuf_session_enter(heap->vd);
	struct virtio_dmabuf_open_resp open;
	struct dma_buf *dmabuf;
	int err;

	if (!session)
		return ERR_PTR(-EIO);
	err = vdmabuf_host_alloc(heap, session, len, &open);
	dmabuf = err ? ERR_PTR(err) : vdmabuf_buffer_make(heap->vd, session, &open, &want, NULL);
	vdmabuf_session_leave(heap->vd);
	return dmabuf;
}

/* The file name for a name on the wire, to be freed; NULL if it is no name. */
static char *vdmabuf_heap_file_name(const __u8 *wire)
{
	size_t len = strnlen(wire, VIRTIO_DMABUF_NAME_LEN);
	char *name;
	size_t i;

	if (!vdmabuf_name_ok(wire))
		return NULL;
	for (i = 0; i < len; i++)
		if (!isascii(wire[i]) || !(isalnum(wire[i]) || strchr("._-/", wire[i])))
			return NULL;
	name = kmemdup_nul(wire, len, GFP_KERNEL);
	return name ? strreplace(name, '/', '_') : NULL;
}

/* Asks for the heap with this number, and takes its name. */
static int vdmabuf_heap_add(struct vdmabuf_device *vd, struct vdmabuf_heaps *heaps, u32 index)
{
	struct vdmabuf_heap *heap = &heaps->heaps[heaps->count];
	struct virtio_dmabuf_heap_list body = { .index = cpu_to_le32(index) };
	struct virtio_dmabuf_heap_list_resp reply;
	struct vdmabuf_call call = {
		.session = vdmabuf_session(vd),
		.op = VIRTIO_DMABUF_HEAP_LIST,
		.body = &body,
		.body_len = sizeof(body),
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};
	char *name;
	int err = vdmabuf_call(vd, &call);

	if (err)
		return err;
	name = vdmabuf_heap_file_name(reply.name);
	if (!name)
		return -EPROTO;
	heap->vd = vd;
	memcpy(heap->wire_name, reply.name, sizeof(heap->wire_name));
	heap->node = heaps->api->attach(name, vdmabuf_heap_allocate, heap);
	kfree(name);
	if (IS_ERR(heap->node))
		return PTR_ERR(heap->node);
	heaps->count++;
	dev_info(&vd->dev, "/dev/dma_heap/%s\n", heaps->api->name(heap->node));
	return 0;
}

/**
 * vdmabuf_heaps_add - makes the heaps of the host appear under /dev/dma_heap
 * @vd: the device, with a session
 *
 * The device is of use without them, so there is no error.
 */
void vdmabuf_heaps_add(struct vdmabuf_device *vd)
{
	struct vdmabuf_heaps *heaps;
	u32 index = 0;
	int err;

	if (!virtio_has_feature(vd->vdev, VIRTIO_DMABUF_F_ALLOC))
		return;
	heaps = kzalloc(sizeof(*heaps), GFP_KERNEL);
	if (!heaps)
		return;
	heaps->api = symbol_request(vdmabuf_heaps_api);
	if (!heaps->api) {
		dev_notice(&vd->dev, "no dma-heaps: virtio_dmabuf_heaps.ko is not loaded\n");
		kfree(heaps);
		return;
	}
	vd->heaps = heaps;
	do
		err = vdmabuf_heap_add(vd, heaps, index++);
	while (!err && heaps->count < VDMABUF_HEAPS);
	if (err == -EOPNOTSUPP)
		dev_notice(&vd->dev, "no dma-heaps: this kernel exports no dma_heap_add()\n");
	else if (err && err != -ENOENT)
		dev_warn(&vd->dev, "no more dma-heaps than %u: %pe\n", heaps->count, ERR_PTR(err));
}

/**
 * vdmabuf_heaps_remove - from now on the device's heaps answer ENODEV
 * @vd: the device, without a session
 */
void vdmabuf_heaps_remove(struct vdmabuf_device *vd)
{
	struct vdmabuf_heaps *heaps = vd->heaps;

	if (!heaps)
		return;
	vd->heaps = NULL;
	while (heaps->count)
		heaps->api->detach(heaps->heaps[--heaps->count].node);
	symbol_put(vdmabuf_heaps_api);
	kfree(heaps);
}
