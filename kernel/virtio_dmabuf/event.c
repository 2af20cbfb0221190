// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: the event queue.
 */
#include <linux/scatterlist.h>
#include <linux/string.h>

#include "stream.h"

/* Gives one buffer to the device. The caller holds vq_lock. */
static void vdmabuf_event_post(struct vdmabuf_device *vd, struct virtio_dmabuf_event *event)
{
	struct scatterlist sg;

	sg_init_one(&sg, event, sizeof(*event));
	/* It has room: there are no more buffers than it took at the start. */
	virtqueue_add_inbuf(vd->event, &sg, 1, event, GFP_ATOMIC);
}

/* The caller holds vq_lock. */
static void vdmabuf_event_take(struct vdmabuf_device *vd,
			       const struct virtio_dmabuf_event *buf, u32 used)
{
	struct virtio_dmabuf_ioc_event out = { };
	struct virtio_dmabuf_event event;

	if (used < sizeof(event)) {
		dev_warn_ratelimited(&vd->dev, "event of %u bytes dropped\n", used);
		return;
	}
	memcpy(&event, buf, sizeof(event));
	out.kind = le32_to_cpu(event.kind);
	switch (out.kind) {
	case VIRTIO_DMABUF_EVENT_FRAME:
	case VIRTIO_DMABUF_EVENT_STREAM_WITHDRAWN:
	case VIRTIO_DMABUF_EVENT_STREAM_FREE:
		vd->stream_events++;
		vdmabuf_stream_event(vd, out.kind, le64_to_cpu(event.buffer));
		return;
	case VIRTIO_DMABUF_EVENT_ADDED:
	case VIRTIO_DMABUF_EVENT_WITHDRAWN:
	case VIRTIO_DMABUF_EVENT_RELEASED:
	case VIRTIO_DMABUF_EVENT_REVOKED:
	case VIRTIO_DMABUF_EVENT_FREE:
	case VIRTIO_DMABUF_EVENT_STREAM_ADDED:
		break;
	default:
		/* Of a later version: the gap in the sequence makes readers list again. */
		return;
	}
	/* Those for ends of streams leave no gap. */
	out.sequence = le64_to_cpu(event.sequence) - vd->stream_events;
	out.buffer = le64_to_cpu(event.buffer);
	out.value = le64_to_cpu(event.value);
	memcpy(out.name, event.name, sizeof(out.name));
	if (out.kind == VIRTIO_DMABUF_EVENT_REVOKED)
		vdmabuf_revoke_announced(vd, out.buffer, out.value);
	vdmabuf_chardev_event(vd, &out);
}

/**
 * vdmabuf_event_done - the event queue's callback
 * @vq: the event queue
 *
 * Context: interrupt.
 */
void vdmabuf_event_done(struct virtqueue *vq)
{
	struct vdmabuf_device *vd = vq->vdev->priv;
	struct virtio_dmabuf_event *event;
	unsigned long flags;
	unsigned int used;

	spin_lock_irqsave(&vd->vq_lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((event = virtqueue_get_buf(vq, &used))) {
			vdmabuf_event_take(vd, event, used);
			vdmabuf_event_post(vd, event);
		}
	} while (!virtqueue_enable_cb(vq));
	if (vd->live)
		virtqueue_kick(vq);
	spin_unlock_irqrestore(&vd->vq_lock, flags);
}

/**
 * vdmabuf_event_fill - gives all buffers to the device
 * @vd: the device, at the start of a session
 */
void vdmabuf_event_fill(struct vdmabuf_device *vd)
{
	unsigned int i, n = min(VDMABUF_EVENTS, virtqueue_get_vring_size(vd->event));

	spin_lock_irq(&vd->vq_lock);
	for (i = 0; i < n; i++)
		vdmabuf_event_post(vd, &vd->event_bufs[i]);
	virtqueue_kick(vd->event);
	spin_unlock_irq(&vd->vq_lock);
}
