// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: requests and replies on the control queue.
 *
 * A request's memory belongs to the device until it is given back. So a caller
 * that stops waiting (deadline, fatal signal) leaves the request behind as an
 * orphan; when its reply comes after all, what it did is undone.
 */
#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/moduleparam.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "vdmabuf.h"

static unsigned int request_timeout_ms = 10000;
module_param(request_timeout_ms, uint, 0644);
MODULE_PARM_DESC(request_timeout_ms, "Longest wait for a reply of the host, in milliseconds");

/**
 * struct vdmabuf_request - a request on its way
 * @ref: one for the caller, one for the device
 * @node: in vdmabuf_device.pending or .orphans, else empty
 * @done: completed when @result is final
 * @result: 0, or why there is no reply
 * @orphan: the caller has left
 * @op: request code
 * @tag: request tag
 * @session: session it was sent in
 * @handle: see struct vdmabuf_call
 * @used: bytes the device says it wrote
 * @out_len: size of @out
 * @in_len: size of @in
 * @out: the request, readable for the device
 * @in: the reply, writable for the device
 */
struct vdmabuf_request {
	struct kref ref;
	struct list_head node;
	struct completion done;
	int result;
	bool orphan;
	u32 op;
	u64 tag;
	u64 session;
	u64 handle;
	u32 used;
	size_t out_len;
	size_t in_len;
	void *out;
	void *in;
};

static void vdmabuf_request_free(struct kref *ref)
{
	struct vdmabuf_request *req = container_of(ref, struct vdmabuf_request, ref);

	kfree(req->out);
	kfree(req->in);
	kfree(req);
}

static void vdmabuf_request_put(struct vdmabuf_request *req)
{
	kref_put(&req->ref, vdmabuf_request_free);
}

static struct vdmabuf_request *vdmabuf_request_new(const struct vdmabuf_call *call)
{
	struct vdmabuf_request *req = kzalloc(sizeof(*req), GFP_KERNEL);

	if (!req)
		return NULL;
	kref_init(&req->ref);
	INIT_LIST_HEAD(&req->node);
	init_completion(&req->done);
	req->op = call->op;
	req->session = call->session;
	req->handle = call->handle;
	req->out_len = sizeof(struct virtio_dmabuf_req_hdr) + call->body_len;
	req->in_len = sizeof(struct virtio_dmabuf_resp_hdr) + call->reply_max;
	req->out = kzalloc(req->out_len, GFP_KERNEL);
	req->in = kzalloc(req->in_len, GFP_KERNEL);
	if (!req->out || !req->in) {
		vdmabuf_request_put(req);
		return NULL;
	}
	if (call->body_len)
		memcpy(req->out + sizeof(struct virtio_dmabuf_req_hdr),
		       call->body, call->body_len);
	return req;
}

/* Hands the request to the device. -ENOSPC: not now, wait for vd->space. */
static int vdmabuf_submit(struct vdmabuf_device *vd, struct vdmabuf_request *req)
{
	struct virtio_dmabuf_req_hdr *hdr = req->out;
	struct scatterlist out, in, *sgs[] = { &out, &in };
	unsigned long flags;
	int err = -EIO;

	sg_init_one(&out, req->out, req->out_len);
	sg_init_one(&in, req->in, req->in_len);

	spin_lock_irqsave(&vd->vq_lock, flags);
	if (!vd->live || vd->stalled || vd->session != req->session)
		goto unlock;
	if (vd->closing && req->op != VIRTIO_DMABUF_UNMAP && req->op != VIRTIO_DMABUF_CLOSE)
		goto unlock;
	err = -ENOSPC;
	if (vd->inflight >= vd->max_inflight)
		goto unlock;
	req->tag = ++vd->tag;
	hdr->op = cpu_to_le32(req->op);
	hdr->tag = cpu_to_le64(req->tag);
	err = virtqueue_add_sgs(vd->control, sgs, 1, 1, req, GFP_ATOMIC);
	if (err)
		goto unlock;
	kref_get(&req->ref);
	list_add_tail(&req->node, &vd->pending);
	vd->inflight++;
	/* The lock also keeps the queue from going away while it is kicked. */
	if (!virtqueue_kick(vd->control))
		dev_warn_ratelimited(&vd->dev, "the control queue is broken\n");
unlock:
	spin_unlock_irqrestore(&vd->vq_lock, flags);
	return err;
}

/* The caller stops waiting. False: the reply came just now. */
static bool vdmabuf_abandon(struct vdmabuf_device *vd, struct vdmabuf_request *req,
			    bool late)
{
	bool abandoned = false;

	spin_lock_irq(&vd->vq_lock);
	if (!completion_done(&req->done)) {
		list_del_init(&req->node);
		req->orphan = true;
		abandoned = true;
		if (late)
			vd->stalled = true;
	}
	spin_unlock_irq(&vd->vq_lock);
	if (abandoned)
		wake_up_all(&vd->space);
	return abandoned;
}

static int vdmabuf_errno(u32 status)
{
	static const int known[] = {
		ENOENT, EIO, ENOMEM, EACCES, EBUSY, EEXIST, ENODEV, EINVAL, EMFILE,
		ENOSPC,
	};
	unsigned int i;

	/* The wire has Linux's generic numbers; these are the same everywhere. */
	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (status == known[i])
			return -known[i];
	/* These differ on some architectures. */
	switch (status) {
	case 90:
		return -EMSGSIZE;
	case 95:
		return -EOPNOTSUPP;
	case 110:
		return -ETIMEDOUT;
	case 116:
		return -ESTALE;
	case 122:
		return -EDQUOT;
	default:
		return -EIO;
	}
}

/*
 * Checks the reply and copies its body out, once: the host can still write to
 * @req->in. Returns 0, what the host answered, or -EPROTO.
 */
static int vdmabuf_parse(const struct vdmabuf_request *req, void *body,
			 size_t min, size_t max, size_t *body_len)
{
	struct virtio_dmabuf_resp_hdr hdr;
	size_t used = req->used;

	if (used < sizeof(hdr) || used > req->in_len)
		return -EPROTO;
	memcpy(&hdr, req->in, sizeof(hdr));
	if (le32_to_cpu(hdr.op) != req->op || le64_to_cpu(hdr.tag) != req->tag)
		return -EPROTO;
	if (hdr.status)
		return vdmabuf_errno(le32_to_cpu(hdr.status));
	used -= sizeof(hdr);
	if (used < min || used > max)
		return -EPROTO;
	if (used)
		memcpy(body, req->in + sizeof(hdr), used);
	*body_len = used;
	return 0;
}

/**
 * vdmabuf_call - sends a request and waits for its reply
 * @vd: the device
 * @call: the request
 *
 * Waits no longer than the module parameter request_timeout_ms, and ends early
 * on a fatal signal. After a request that met its deadline, others fail at once
 * until the device answers something.
 *
 * Context: process context, may sleep.
 * Return: 0; the error that the host answered; -EIO when the device is gone, was
 * reset or doesn't answer any more, or answered nonsense; -ETIMEDOUT; -EINTR.
 */
int vdmabuf_call(struct vdmabuf_device *vd, struct vdmabuf_call *call)
{
	unsigned long deadline = msecs_to_jiffies(READ_ONCE(request_timeout_ms));
	struct vdmabuf_request *req;
	long left;
	int err;

	call->orphaned = false;
	req = vdmabuf_request_new(call);
	if (!req)
		return -ENOMEM;

	left = wait_event_killable_timeout(vd->space,
					   (err = vdmabuf_submit(vd, req)) != -ENOSPC,
					   deadline);
	if (left <= 0)
		err = left ? -EINTR : -ETIMEDOUT;
	if (err)
		goto put;

	left = wait_for_completion_killable_timeout(&req->done, left);
	if (left <= 0 && vdmabuf_abandon(vd, req, !left)) {
		call->orphaned = true;
		err = left ? -EINTR : -ETIMEDOUT;
		if (!left)
			dev_warn_ratelimited(&vd->dev,
					     "no reply to request %#x within %u ms: is the host's daemon running?\n",
					     req->op, jiffies_to_msecs(deadline));
		goto put;
	}

	err = req->result;
	if (!err)
		err = vdmabuf_parse(req, call->reply, call->reply_min, call->reply_max,
				    &call->reply_len);
	if (err == -EPROTO) {
		dev_warn_ratelimited(&vd->dev, "malformed reply to request %#x\n", req->op);
		err = -EIO;
	}
put:
	vdmabuf_request_put(req);
	return err;
}

/**
 * vdmabuf_unmap - undoes a MAP
 * @vd: the device
 * @session: session of the mapping
 * @mapping: the mapping
 *
 * Return: as vdmabuf_call().
 */
int vdmabuf_unmap(struct vdmabuf_device *vd, u64 session, u64 mapping)
{
	struct virtio_dmabuf_unmap body = { .mapping = cpu_to_le64(mapping) };
	struct vdmabuf_call call = {
		.session = session,
		.op = VIRTIO_DMABUF_UNMAP,
		.body = &body,
		.body_len = sizeof(body),
	};

	return vdmabuf_call(vd, &call);
}

/**
 * vdmabuf_close - gives a handle back
 * @vd: the device
 * @session: session of the handle
 * @handle: the handle
 *
 * Return: as vdmabuf_call().
 */
int vdmabuf_close(struct vdmabuf_device *vd, u64 session, u64 handle)
{
	struct virtio_dmabuf_close body = { .handle = cpu_to_le64(handle) };
	struct vdmabuf_call call = {
		.session = session,
		.op = VIRTIO_DMABUF_CLOSE,
		.body = &body,
		.body_len = sizeof(body),
	};

	return vdmabuf_call(vd, &call);
}

/* Undoes what an orphan did on the host. */
static void vdmabuf_orphan_undo(struct vdmabuf_device *vd,
				const struct vdmabuf_request *req)
{
	union {
		struct virtio_dmabuf_open_resp open;
		struct virtio_dmabuf_map_resp map;
	} reply;
	size_t len;

	switch (req->op) {
	case VIRTIO_DMABUF_OPEN:
	case VIRTIO_DMABUF_ALLOC:
		if (!vdmabuf_parse(req, &reply, sizeof(reply.open), sizeof(reply.open), &len))
			vdmabuf_close(vd, req->session, le64_to_cpu(reply.open.handle));
		break;
	case VIRTIO_DMABUF_MAP:
		if (!vdmabuf_parse(req, &reply, sizeof(reply.map), sizeof(reply.map), &len))
			vdmabuf_unmap(vd, req->session, le64_to_cpu(reply.map.mapping));
		break;
	}
	if (req->handle)
		vdmabuf_close(vd, req->session, req->handle);
}

static void vdmabuf_orphan_work(struct work_struct *work)
{
	struct vdmabuf_device *vd = container_of(work, struct vdmabuf_device, orphan_work);
	struct vdmabuf_request *req, *next;
	LIST_HEAD(orphans);

	spin_lock_irq(&vd->vq_lock);
	list_splice_init(&vd->orphans, &orphans);
	spin_unlock_irq(&vd->vq_lock);

	list_for_each_entry_safe(req, next, &orphans, node) {
		list_del_init(&req->node);
		vdmabuf_orphan_undo(vd, req);
		vdmabuf_request_put(req);
	}
	put_device(&vd->dev);
}

/* The device gave @req back. The caller holds vq_lock. */
static void vdmabuf_complete(struct vdmabuf_device *vd, struct vdmabuf_request *req,
			     u32 used)
{
	vd->inflight--;
	vd->stalled = false;
	req->used = used;
	if (req->orphan) {
		list_add_tail(&req->node, &vd->orphans);
		get_device(&vd->dev);
		if (!queue_work(vdmabuf_wq, &vd->orphan_work))
			put_device(&vd->dev);
		return;
	}
	if (!list_empty(&req->node)) {
		list_del_init(&req->node);
		complete(&req->done);
	}
	vdmabuf_request_put(req);
}

/**
 * vdmabuf_control_done - the control queue's callback
 * @vq: the control queue
 *
 * Context: interrupt.
 */
void vdmabuf_control_done(struct virtqueue *vq)
{
	struct vdmabuf_device *vd = vq->vdev->priv;
	struct vdmabuf_request *req;
	unsigned long flags;
	unsigned int used;

	spin_lock_irqsave(&vd->vq_lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((req = virtqueue_get_buf(vq, &used)))
			vdmabuf_complete(vd, req, used);
	} while (!virtqueue_enable_cb(vq));
	spin_unlock_irqrestore(&vd->vq_lock, flags);
	wake_up_all(&vd->space);
}

/**
 * vdmabuf_control_close - from now on the session only gives back what it holds
 * @vd: the device
 */
void vdmabuf_control_close(struct vdmabuf_device *vd)
{
	spin_lock_irq(&vd->vq_lock);
	vd->closing = true;
	spin_unlock_irq(&vd->vq_lock);
}

static bool vdmabuf_settled(struct vdmabuf_device *vd)
{
	bool settled;

	spin_lock_irq(&vd->vq_lock);
	settled = !vd->live || vd->stalled || (!vd->inflight && !vd->opening);
	spin_unlock_irq(&vd->vq_lock);
	return settled;
}

/**
 * vdmabuf_control_settle - waits until the session has given back what it holds
 * @vd: the device, after vdmabuf_control_close()
 *
 * Doesn't wait for a device that has stopped to answer, and never longer than for
 * a reply.
 */
void vdmabuf_control_settle(struct vdmabuf_device *vd)
{
	wait_event_timeout(vd->space, vdmabuf_settled(vd),
			   msecs_to_jiffies(READ_ONCE(request_timeout_ms)));
	/* What was closed a moment ago is given back by work items. */
	flush_workqueue(vdmabuf_wq);
}

/**
 * vdmabuf_control_fail - ends the session: no request is sent any more
 * @vd: the device
 *
 * Requests that somebody waits for end with -EIO. Their memory stays with the
 * device: see vdmabuf_control_drain().
 */
void vdmabuf_control_fail(struct vdmabuf_device *vd)
{
	struct vdmabuf_request *req, *next;
	unsigned long flags;

	spin_lock_irqsave(&vd->vq_lock, flags);
	vd->live = false;
	list_for_each_entry_safe(req, next, &vd->pending, node) {
		list_del_init(&req->node);
		req->result = -EIO;
		complete(&req->done);
	}
	spin_unlock_irqrestore(&vd->vq_lock, flags);
	wake_up_all(&vd->space);
}

/**
 * vdmabuf_control_drain - takes all requests back from a device that was reset
 * @vd: the device, after vdmabuf_control_fail() and the reset
 */
void vdmabuf_control_drain(struct vdmabuf_device *vd)
{
	struct vdmabuf_request *req;

	while ((req = virtqueue_detach_unused_buf(vd->control)))
		vdmabuf_request_put(req);
	vd->inflight = 0;
}

/**
 * vdmabuf_control_init - prepares the fields that this file uses
 * @vd: a new device
 */
void vdmabuf_control_init(struct vdmabuf_device *vd)
{
	spin_lock_init(&vd->vq_lock);
	INIT_LIST_HEAD(&vd->pending);
	INIT_LIST_HEAD(&vd->orphans);
	init_waitqueue_head(&vd->space);
	INIT_WORK(&vd->orphan_work, vdmabuf_orphan_work);
}
