// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: fences of the host, brought to dma-bufs of the guest.
 *
 * A FENCE_WAIT that the device holds is a dma_fence of the guest. It ends by the
 * answer, by the driver's own deadline when none comes, or with the session;
 * nothing is allocated and nobody sleeps on that way.
 *
 * The fence has its request, the request doesn't have its fence: when nobody has
 * the fence any more, the wait is cancelled.
 */
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "vdmabuf.h"

/*
 * How long after its deadline a wait ends by itself: the device has answered by then. It
 * begins when the deadline is noticed: a guest that was paused meanwhile has not seen yet
 * what was answered.
 */
#define VDMABUF_FENCE_GRACE	HZ

static unsigned int fence_timeout_ms = 10000;
module_param(fence_timeout_ms, uint, 0644);
MODULE_PARM_DESC(fence_timeout_ms, "Longest wait for fences of the host, in milliseconds");

/**
 * struct vdmabuf_fence - a wait for the host's fences
 * @base: the fence
 * @lock: its lock
 * @vd: the device, with a reference
 * @req: the request, with a reference
 * @release: cancels the wait, and frees the fence
 */
struct vdmabuf_fence {
	struct dma_fence base;
	spinlock_t lock;
	struct vdmabuf_device *vd;
	struct vdmabuf_request *req;
	struct work_struct release;
};

static struct vdmabuf_fence *to_vdmabuf_fence(struct dma_fence *base)
{
	return container_of(base, struct vdmabuf_fence, base);
}

static const char *vdmabuf_fence_driver_name(struct dma_fence *base)
{
	return "virtio_dmabuf";
}

static const char *vdmabuf_fence_timeline_name(struct dma_fence *base)
{
	return dev_name(&to_vdmabuf_fence(base)->vd->dev);
}

static void vdmabuf_fence_release(struct dma_fence *base)
{
	struct vdmabuf_fence *fence = to_vdmabuf_fence(base);

	RCU_INIT_POINTER(fence->req->fence, NULL);
	queue_work(vdmabuf_wq, &fence->release);
}

static const struct dma_fence_ops vdmabuf_fence_ops = {
	.get_driver_name = vdmabuf_fence_driver_name,
	.get_timeline_name = vdmabuf_fence_timeline_name,
	.release = vdmabuf_fence_release,
};

static bool vdmabuf_fence_pending(struct vdmabuf_fence *fence)
{
	bool pending;

	spin_lock_irq(&fence->vd->vq_lock);
	pending = fence->req->tag && !fence->req->ended;
	spin_unlock_irq(&fence->vd->vq_lock);
	return pending;
}

static int vdmabuf_host_cancel(struct vdmabuf_fence *fence)
{
	struct virtio_dmabuf_fence_cancel body = { .tag = cpu_to_le64(fence->req->tag) };
	struct vdmabuf_call call = {
		.session = fence->req->session,
		.op = VIRTIO_DMABUF_FENCE_CANCEL,
		.body = &body,
		.body_len = sizeof(body),
	};

	return vdmabuf_call(fence->vd, &call);
}

static void vdmabuf_fence_release_work(struct work_struct *work)
{
	struct vdmabuf_fence *fence = container_of(work, struct vdmabuf_fence, release);

	/* If the host can't be told, the wait ends at its deadline. */
	if (vdmabuf_fence_pending(fence))
		vdmabuf_host_cancel(fence);
	vdmabuf_request_put(fence->req);
	put_device(&fence->vd->dev);
	dma_fence_free(&fence->base);
	module_put(THIS_MODULE);
}

/* The wait has ended. In any context, without locks. */
static void vdmabuf_fence_done(struct vdmabuf_request *req)
{
	struct virtio_dmabuf_fence_wait_resp reply;
	struct vdmabuf_fence *fence;
	size_t len;
	int err;

	rcu_read_lock();
	fence = rcu_dereference(req->fence);
	if (fence && !dma_fence_get_rcu(&fence->base))
		fence = NULL;
	rcu_read_unlock();
	if (!fence)
		return;
	err = req->result ?: vdmabuf_parse(req, &reply, sizeof(reply), sizeof(reply), &len);
	if (err == -EPROTO) {
		dev_warn_ratelimited(&fence->vd->dev, "malformed reply to a wait\n");
		err = -EIO;
	}
	if (err)
		dma_fence_set_error(&fence->base, err);
	dma_fence_signal(&fence->base);
	dma_fence_put(&fence->base);
}

/**
 * vdmabuf_fence_timeout_ms - how long a wait may take
 * @wanted: in milliseconds, 0 for the longest
 *
 * Return: @wanted, or the module's limit.
 */
u32 vdmabuf_fence_timeout_ms(u32 wanted)
{
	u32 limit = clamp(READ_ONCE(fence_timeout_ms), 1U, (u32)INT_MAX);

	return wanted ? min(wanted, limit) : limit;
}

/* A fence whose request was not sent yet. */
static struct vdmabuf_fence *vdmabuf_fence_new(struct vdmabuf_buffer *buf, u32 usage,
					       u32 timeout_ms)
{
	struct virtio_dmabuf_fence_wait body = {
		.handle = cpu_to_le64(buf->handle),
		.usage = cpu_to_le32(usage),
		.timeout_ms = cpu_to_le32(timeout_ms),
	};
	struct vdmabuf_call call = {
		.session = buf->session,
		.op = VIRTIO_DMABUF_FENCE_WAIT,
		.body = &body,
		.body_len = sizeof(body),
		.reply_max = sizeof(struct virtio_dmabuf_fence_wait_resp),
	};
	struct vdmabuf_fence *fence = kzalloc(sizeof(*fence), GFP_KERNEL);

	if (!fence)
		return NULL;
	fence->req = vdmabuf_request_new(&call, vdmabuf_fence_done);
	if (!fence->req) {
		kfree(fence);
		return NULL;
	}
	__module_get(THIS_MODULE);
	get_device(&buf->vd->dev);
	fence->vd = buf->vd;
	INIT_WORK(&fence->release, vdmabuf_fence_release_work);
	spin_lock_init(&fence->lock);
	/* Waits end in any order, so each is a timeline of its own. */
	dma_fence_init(&fence->base, &vdmabuf_fence_ops, &fence->lock,
		       dma_fence_context_alloc(1), 1);
	rcu_assign_pointer(fence->req->fence, fence);
	return fence;
}

static int vdmabuf_fence_submit(struct vdmabuf_fence *fence, u32 timeout_ms, bool nonblock)
{
	long left;
	int err;

	fence->req->deadline = (jiffies + msecs_to_jiffies(timeout_ms)) ?: 1;
	if (nonblock) {
		err = vdmabuf_submit(fence->vd, fence->req);
		return err == -ENOSPC ? -EAGAIN : err;
	}
	left = vdmabuf_submit_wait(fence->vd, fence->req, vdmabuf_request_timeout(), true);
	return left < 0 ? left : 0;
}

/* Has those who use the dma-buf as @usage says wait for the fence. */
static int vdmabuf_fence_add(struct vdmabuf_buffer *buf, struct dma_fence *base, u32 usage)
{
	struct dma_resv *resv = buf->dmabuf->resv;
	int err = dma_resv_lock_interruptible(resv, NULL);

	if (err)
		return err;
	err = dma_resv_reserve_fences(resv, 1);
	/* What has to end before it can be read is a write, and the other way round. */
	if (!err)
		dma_resv_add_fence(resv, base, usage == VIRTIO_DMABUF_USAGE_READ ?
				   DMA_RESV_USAGE_WRITE : DMA_RESV_USAGE_READ);
	dma_resv_unlock(resv);
	return err;
}

/**
 * vdmabuf_fence_wait - makes a fence of those that the host's buffer has now
 * @buf: the buffer
 * @usage: VIRTIO_DMABUF_USAGE_READ or VIRTIO_DMABUF_USAGE_WRITE
 * @timeout_ms: from vdmabuf_fence_timeout_ms()
 * @nonblock: don't wait until the device takes the request
 *
 * Context: process context, may sleep.
 * Return: the fence with a reference, added to the dma-buf; or an error pointer.
 */
struct dma_fence *vdmabuf_fence_wait(struct vdmabuf_buffer *buf, u32 usage, u32 timeout_ms,
				     bool nonblock)
{
	struct vdmabuf_fence *fence = vdmabuf_fence_new(buf, usage, timeout_ms);
	int err;

	if (!fence)
		return ERR_PTR(-ENOMEM);
	err = vdmabuf_fence_submit(fence, timeout_ms, nonblock);
	if (!err)
		err = vdmabuf_fence_add(buf, &fence->base, usage);
	if (!err)
		return &fence->base;
	dma_fence_put(&fence->base);
	return ERR_PTR(err);
}

/**
 * vdmabuf_fence_cancel - ends a fence early
 * @vd: the device
 * @base: any fence
 *
 * Return: 0: it has ended with -ECANCELED; -ENOENT: it had ended before; -EINVAL: it
 * is none of @vd; or another error.
 */
int vdmabuf_fence_cancel(struct vdmabuf_device *vd, struct dma_fence *base)
{
	struct vdmabuf_fence *fence;

	/* Since Linux 7 an RCU pointer, and NULL once the fence has ended; only compared. */
	if ((__force const struct dma_fence_ops *)READ_ONCE(base->ops) != &vdmabuf_fence_ops)
		return -EINVAL;
	fence = to_vdmabuf_fence(base);
	if (fence->vd != vd)
		return -EINVAL;
	return vdmabuf_fence_pending(fence) ? vdmabuf_host_cancel(fence) : -ENOENT;
}

/* Ends waits that the device should have answered. In a timer. */
static void vdmabuf_deadline(struct timer_list *timer)
{
	struct vdmabuf_device *vd = container_of(timer, struct vdmabuf_device, deadline);
	struct vdmabuf_request *req, *next;
	unsigned long now = jiffies, flags;
	LIST_HEAD(ended);

	spin_lock_irqsave(&vd->vq_lock, flags);
	list_for_each_entry_safe(req, next, &vd->fence.pending, node) {
		if (!req->deadline)
			continue;
		if (time_after_eq(now, req->deadline)) {
			if (req->overdue) {
				vdmabuf_request_take(req, -ETIMEDOUT, &ended);
				continue;
			}
			req->overdue = true;
			req->deadline = (now + VDMABUF_FENCE_GRACE) ?: 1;
		}
		timer_reduce(&vd->deadline, req->deadline);
	}
	spin_unlock_irqrestore(&vd->vq_lock, flags);
	vdmabuf_requests_end(&ended);
}

/**
 * vdmabuf_deadline_arm - has a wait end by itself
 * @vd: the device
 * @deadline: when, in jiffies
 *
 * Context: the caller holds vq_lock, and the session is live.
 */
void vdmabuf_deadline_arm(struct vdmabuf_device *vd, unsigned long deadline)
{
	timer_reduce(&vd->deadline, deadline);
}

/**
 * vdmabuf_deadline_stop - the opposite, when the session has ended
 * @vd: the device
 */
void vdmabuf_deadline_stop(struct vdmabuf_device *vd)
{
	timer_delete_sync(&vd->deadline);
}

/**
 * vdmabuf_fence_init - prepares the fields that this file uses
 * @vd: a new device
 */
void vdmabuf_fence_init(struct vdmabuf_device *vd)
{
	timer_setup(&vd->deadline, vdmabuf_deadline, 0);
}
