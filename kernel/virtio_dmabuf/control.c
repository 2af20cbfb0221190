// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: requests that somebody waits for.
 *
 * A caller that stops waiting (deadline, signal) leaves the request behind as an
 * orphan; when its reply comes after all, what it did is undone.
 */
#include <linux/dma-buf.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/moduleparam.h>

#include "stream.h"

static unsigned int request_timeout_ms = 10000;
module_param(request_timeout_ms, uint, 0644);
MODULE_PARM_DESC(request_timeout_ms, "Longest wait for a reply of the host, in milliseconds");

/*
 * A guest that was paused finds that its time is over before the host's answer reaches it.
 * So waits have parts, of which a pause takes one at most.
 */
#define VDMABUF_WAIT_PARTS	8

static unsigned long vdmabuf_wait_part(unsigned long timeout)
{
	return DIV_ROUND_UP(timeout, VDMABUF_WAIT_PARTS);
}

static void vdmabuf_call_done(struct vdmabuf_request *req)
{
	complete(&req->completion);
}

/* The caller stops waiting. False: the reply came just now. */
static bool vdmabuf_abandon(struct vdmabuf_device *vd, struct vdmabuf_request *req,
			    bool late)
{
	bool abandoned = false;

	spin_lock_irq(&vd->vq_lock);
	if (!req->ended) {
		list_del_init(&req->node);
		req->ended = true;
		req->orphan = true;
		abandoned = true;
		/* A late fence says nothing about the device. */
		if (late && !req->slow)
			vd->stalled = true;
	}
	spin_unlock_irq(&vd->vq_lock);
	if (abandoned)
		wake_up_all(&vd->space);
	if (abandoned && late)
		vdmabuf_streams_wake(vd);
	return abandoned;
}

/**
 * vdmabuf_submit_wait - hands a request to the device, when that has room for it
 * @vd: the device
 * @req: the request
 * @timeout: longest wait, in jiffies
 * @interruptible: any signal ends the wait, not only a fatal one
 *
 * Return: what is left of @timeout, or -ETIMEDOUT, -ERESTARTSYS, or an error of
 * vdmabuf_submit().
 */
long vdmabuf_submit_wait(struct vdmabuf_device *vd, struct vdmabuf_request *req,
			 unsigned long timeout, bool interruptible)
{
	unsigned long part = vdmabuf_wait_part(timeout);
	unsigned int parts = VDMABUF_WAIT_PARTS;
	long left;
	int err;

	do {
		if (interruptible)
			left = wait_event_interruptible_timeout(vd->space,
								(err = vdmabuf_submit(vd, req)) !=
									-ENOSPC, part);
		else
			left = wait_event_killable_timeout(vd->space,
							   (err = vdmabuf_submit(vd, req)) !=
								   -ENOSPC, part);
	} while (!left && --parts);
	if (left <= 0)
		return left ?: -ETIMEDOUT;
	return err ?: left + (parts - 1) * part;
}

/**
 * vdmabuf_request_timeout - the longest wait for an answer of the device
 *
 * Return: it, in jiffies.
 */
unsigned long vdmabuf_request_timeout(void)
{
	return msecs_to_jiffies(READ_ONCE(request_timeout_ms));
}

/* More than 0: the request has ended; 0: it has not, in @timeout jiffies; or an error. */
static long vdmabuf_reply_wait(struct vdmabuf_request *req, unsigned long timeout,
			       bool interruptible)
{
	unsigned long part = vdmabuf_wait_part(timeout);
	unsigned int parts = VDMABUF_WAIT_PARTS;
	long left;

	do {
		if (interruptible)
			left = wait_for_completion_interruptible_timeout(&req->completion, part);
		else
			left = wait_for_completion_killable_timeout(&req->completion, part);
	} while (!left && --parts);
	return left;
}

/**
 * vdmabuf_call - sends a request and waits for its reply
 * @vd: the device
 * @call: the request
 *
 * Waits no longer than the module parameter request_timeout_ms, or @call->timeout,
 * and ends early on a signal. After a request that met its deadline, others fail
 * at once until the device answers something.
 *
 * Context: process context, may sleep.
 * Return: 0; the error that the host answered; -EIO when the device is gone, was
 * reset or doesn't answer any more, or answered nonsense; -ETIMEDOUT; -EINTR, or
 * -ERESTARTSYS for an interruptible call.
 */
int vdmabuf_call(struct vdmabuf_device *vd, struct vdmabuf_call *call)
{
	unsigned long timeout = call->timeout ?: vdmabuf_request_timeout();
	int interrupted = call->interruptible ? -ERESTARTSYS : -EINTR;
	struct vdmabuf_request *req;
	long left;
	int err;

	call->orphaned = false;
	call->answered = false;
	req = vdmabuf_request_new(call, vdmabuf_call_done);
	if (!req)
		return -ENOMEM;

	left = vdmabuf_submit_wait(vd, req, timeout, call->interruptible);
	if (left < 0) {
		err = left == -ERESTARTSYS ? interrupted : left;
		goto put;
	}

	left = vdmabuf_reply_wait(req, left, call->interruptible);
	if (left <= 0 && vdmabuf_abandon(vd, req, !left)) {
		call->orphaned = true;
		err = left ? interrupted : -ETIMEDOUT;
		if (!left && !req->slow)
			dev_warn_ratelimited(&vd->dev,
					     "no reply to request %#x within %u ms: is the host's daemon running?\n",
					     req->op, jiffies_to_msecs(timeout));
		goto put;
	}

	err = req->result;
	if (!err) {
		err = vdmabuf_parse(req, call->reply, call->reply_min, call->reply_max,
				    &call->reply_len);
		call->answered = err != -EPROTO;
	}
	if (err == -EPROTO) {
		dev_warn_ratelimited(&vd->dev, "malformed reply to request %#x\n", req->op);
		err = -EIO;
	}
put:
	vdmabuf_request_put(req);
	return err;
}

/**
 * vdmabuf_call_fd - sends a request about a dma-buf of ours, and waits for its reply
 * @vd: the device
 * @fd: the dma-buf
 * @call: the request, but for its session
 * @handle: where in its body the buffer's handle goes
 *
 * Return: as vdmabuf_call(); -EBADF; -EINVAL for what isn't a dma-buf of this device.
 */
int vdmabuf_call_fd(struct vdmabuf_device *vd, int fd, struct vdmabuf_call *call, __le64 *handle)
{
	struct vdmabuf_buffer *buf = vdmabuf_buffer_get(vd, fd);
	int err;

	if (IS_ERR(buf))
		return PTR_ERR(buf);
	call->session = buf->session;
	*handle = cpu_to_le64(buf->handle);
	err = vdmabuf_call(vd, call);
	dma_buf_put(buf->dmabuf);
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
	case VIRTIO_DMABUF_SYNC_START:
		vdmabuf_sync_undo(vd, req);
		break;
	case VIRTIO_DMABUF_OPEN:
	case VIRTIO_DMABUF_ALLOC:
	case VIRTIO_DMABUF_STREAM_BUFFER:
		if (!vdmabuf_parse(req, &reply, sizeof(reply.open), sizeof(reply.open), &len))
			vdmabuf_close(vd, req->session, le64_to_cpu(reply.open.handle));
		break;
	case VIRTIO_DMABUF_MAP:
		if (!vdmabuf_parse(req, &reply, sizeof(reply.map), sizeof(reply.map), &len))
			vdmabuf_unmap(vd, req->session, le64_to_cpu(reply.map.mapping));
		break;
	default:
		vdmabuf_stream_undo(vd, req);
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

/**
 * vdmabuf_orphan_add - an answer came that nobody waits for any more
 * @vd: the device
 * @req: the request; its reference is taken over
 *
 * Context: the caller holds vq_lock.
 */
void vdmabuf_orphan_add(struct vdmabuf_device *vd, struct vdmabuf_request *req)
{
	list_add_tail(&req->node, &vd->orphans);
	get_device(&vd->dev);
	if (!queue_work(vdmabuf_wq, &vd->orphan_work))
		put_device(&vd->dev);
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
	settled = !vd->live || vd->stalled ||
		  (vd->control.inflight == vd->control.slow && !vd->opening);
	spin_unlock_irq(&vd->vq_lock);
	return settled;
}

/**
 * vdmabuf_control_settle - waits until the session has given back what it holds
 * @vd: the device, after vdmabuf_control_close()
 *
 * Doesn't wait for a device that has stopped to answer, nor for fences, and never
 * longer than for a reply.
 */
void vdmabuf_control_settle(struct vdmabuf_device *vd)
{
	unsigned long part = vdmabuf_wait_part(vdmabuf_request_timeout());
	unsigned int parts = VDMABUF_WAIT_PARTS;

	while (!wait_event_timeout(vd->space, vdmabuf_settled(vd), part) && --parts)
		;
	/* What was closed a moment ago is given back by work items. */
	flush_workqueue(vdmabuf_wq);
}

/**
 * vdmabuf_control_init - prepares the fields that this file uses
 * @vd: a new device
 */
void vdmabuf_control_init(struct vdmabuf_device *vd)
{
	INIT_LIST_HEAD(&vd->orphans);
	INIT_WORK(&vd->orphan_work, vdmabuf_orphan_work);
}
