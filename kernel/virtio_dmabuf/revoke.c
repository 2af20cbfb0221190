// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: buffers that the host takes away.
 *
 * The host says when it will. A little earlier the buffer is revoked here: user
 * mappings raise SIGBUS, nothing new can be made of it, and the mapping and the
 * handle are given back. What the driver is late with the host does by itself.
 */
#include <linux/jiffies.h>
#include <linux/minmax.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "vdmabuf.h"

/* How much earlier than the host, in milliseconds; half of the time at most */
#define VDMABUF_REVOKE_EARLY_MS	200U

/* Announcements that are kept; the host does the rest */
#define VDMABUF_REVOCATIONS	1024

/**
 * struct vdmabuf_revocation - a buffer that will be taken away
 * @node: in vdmabuf_device.revocations
 * @buffer: its number on the host
 * @due: when, in jiffies
 */
struct vdmabuf_revocation {
	struct list_head node;
	u64 buffer;
	unsigned long due;
};

/* Takes those that are due. Returns the time in jiffies until the next one is, if one is left. */
static unsigned long vdmabuf_revocations_due(struct vdmabuf_device *vd, struct list_head *due)
{
	unsigned long left = MAX_JIFFY_OFFSET, now = jiffies;
	struct vdmabuf_revocation *rev, *next;

	spin_lock_irq(&vd->vq_lock);
	list_for_each_entry_safe(rev, next, &vd->revocations, node) {
		if (time_after(rev->due, now)) {
			left = min(left, rev->due - now);
			continue;
		}
		list_move_tail(&rev->node, due);
		vd->num_revocations--;
	}
	spin_unlock_irq(&vd->vq_lock);
	return left;
}

static void vdmabuf_revoke_work(struct work_struct *work)
{
	struct vdmabuf_device *vd = container_of(to_delayed_work(work), struct vdmabuf_device,
						 revoke_work);
	struct vdmabuf_revocation *rev, *next;
	unsigned long left;
	LIST_HEAD(due);

	left = vdmabuf_revocations_due(vd, &due);
	list_for_each_entry_safe(rev, next, &due, node) {
		vdmabuf_buffers_take(vd, rev->buffer);
		kfree(rev);
	}
	/* A newer announcement has queued it already. */
	if (left != MAX_JIFFY_OFFSET)
		queue_delayed_work(vdmabuf_wq, &vd->revoke_work, left);
}

/**
 * vdmabuf_revoke_announced - the host has said that it will take a buffer away
 * @vd: the device
 * @buffer: the buffer's number on the host
 * @ms: in so many milliseconds
 *
 * Context: the caller holds vq_lock.
 */
void vdmabuf_revoke_announced(struct vdmabuf_device *vd, u64 buffer, u64 ms)
{
	u32 rest = min_t(u64, ms, VIRTIO_DMABUF_REVOKE_MAX_MS);
	struct vdmabuf_revocation *rev = NULL;

	if (!vd->live || vd->closing)
		return;
	if (vd->num_revocations < VDMABUF_REVOCATIONS)
		rev = kmalloc(sizeof(*rev), GFP_ATOMIC);
	if (!rev) {
		dev_warn_ratelimited(&vd->dev, "buffer %llu is left to the host to be taken away\n",
				     buffer);
		return;
	}
	rest -= min(rest / 2, VDMABUF_REVOKE_EARLY_MS);
	rev->buffer = buffer;
	rev->due = jiffies + msecs_to_jiffies(rest);
	list_add_tail(&rev->node, &vd->revocations);
	vd->num_revocations++;
	mod_delayed_work(vdmabuf_wq, &vd->revoke_work, 0);
}

/**
 * vdmabuf_revoke_stop - forgets what was announced
 * @vd: the device, whose session takes no more events
 */
void vdmabuf_revoke_stop(struct vdmabuf_device *vd)
{
	struct vdmabuf_revocation *rev, *next;

	cancel_delayed_work_sync(&vd->revoke_work);
	spin_lock_irq(&vd->vq_lock);
	list_for_each_entry_safe(rev, next, &vd->revocations, node) {
		list_del(&rev->node);
		kfree(rev);
	}
	vd->num_revocations = 0;
	spin_unlock_irq(&vd->vq_lock);
}

/**
 * vdmabuf_revoke_init - prepares the fields that this file uses
 * @vd: a new device
 */
void vdmabuf_revoke_init(struct vdmabuf_device *vd)
{
	INIT_LIST_HEAD(&vd->revocations);
	INIT_DELAYED_WORK(&vd->revoke_work, vdmabuf_revoke_work);
}
