// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: requests and replies on the control and fence queue.
 *
 * A request's memory belongs to the device until it is given back. A request ends
 * once: by its reply, at its deadline, or with the session. Whoever takes it off
 * the list of pending requests ends it.
 */
#include <linux/dma-fence.h>
#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "vdmabuf.h"

/* Requests that can always be sent, however many wait for fences of the host */
#define VDMABUF_QUEUE_RESERVE	16

static void vdmabuf_request_free(struct kref *ref)
{
	struct vdmabuf_request *req = container_of(ref, struct vdmabuf_request, ref);

	kfree(req->out);
	kfree(req->in);
	kfree(req);
}

/**
 * vdmabuf_request_put - drops a reference
 * @req: the request
 *
 * Context: any.
 */
void vdmabuf_request_put(struct vdmabuf_request *req)
{
	kref_put(&req->ref, vdmabuf_request_free);
}

/**
 * vdmabuf_request_new - a request that was not sent yet
 * @call: what it asks
 * @done: called when it ended; from interrupts, too
 *
 * Return: the request with a reference, or NULL.
 */
struct vdmabuf_request *vdmabuf_request_new(const struct vdmabuf_call *call,
					    void (*done)(struct vdmabuf_request *req))
{
	struct vdmabuf_request *req = kzalloc(sizeof(*req), GFP_KERNEL);

	if (!req)
		return NULL;
	kref_init(&req->ref);
	INIT_LIST_HEAD(&req->node);
	init_completion(&req->completion);
	req->done = done;
	req->op = call->op;
	req->session = call->session;
	req->handle = call->handle;
	req->slow = call->op == VIRTIO_DMABUF_SYNC_START ||
		    call->op == VIRTIO_DMABUF_FENCE_WAIT;
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

static struct vdmabuf_queue *vdmabuf_queue_of(struct vdmabuf_device *vd, u32 op)
{
	switch (op) {
	case VIRTIO_DMABUF_FENCE_WAIT:
	case VIRTIO_DMABUF_FENCE_CANCEL:
	case VIRTIO_DMABUF_FENCE_QUERY:
		return &vd->fence;
	default:
		return &vd->control;
	}
}

/* Whether one more request like @req may be sent. The caller holds vq_lock. */
static bool vdmabuf_queue_has_room(const struct vdmabuf_queue *queue,
				   const struct vdmabuf_request *req)
{
	/* Those that wait for fences don't use up what the others need, and vice versa. */
	if (req->slow)
		return queue->slow < queue->max_slow;
	return queue->inflight - queue->slow < queue->max_inflight;
}

/**
 * vdmabuf_submit - hands a request to the device
 * @vd: the device
 * @req: the request; it ends by its @done if this succeeds
 *
 * Context: any.
 * Return: 0; -ENOSPC: not now, wait for vd->space; -EIO: the session is over.
 */
int vdmabuf_submit(struct vdmabuf_device *vd, struct vdmabuf_request *req)
{
	struct vdmabuf_queue *queue = vdmabuf_queue_of(vd, req->op);
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
	if (!vdmabuf_queue_has_room(queue, req))
		goto unlock;
	req->tag = ++vd->tag;
	hdr->op = cpu_to_le32(req->op);
	hdr->tag = cpu_to_le64(req->tag);
	err = virtqueue_add_sgs(queue->vq, sgs, 1, 1, req, GFP_ATOMIC);
	if (err)
		goto unlock;
	kref_get(&req->ref);
	list_add_tail(&req->node, &queue->pending);
	queue->inflight++;
	queue->slow += req->slow;
	if (req->deadline)
		vdmabuf_deadline_arm(vd, req->deadline);
	/* The lock also keeps the queue from going away while it is kicked. */
	if (!virtqueue_kick(queue->vq))
		dev_warn_ratelimited(&vd->dev, "the %s queue is broken\n", queue->vq->name);
unlock:
	spin_unlock_irqrestore(&vd->vq_lock, flags);
	return err;
}

/**
 * vdmabuf_request_take - takes a pending request off its list
 * @req: the request, not ended
 * @result: 0 if the device answered
 * @ended: takes it over, with a reference, for vdmabuf_requests_end()
 *
 * Context: the caller holds vq_lock.
 */
void vdmabuf_request_take(struct vdmabuf_request *req, int result, struct list_head *ended)
{
	kref_get(&req->ref);
	req->ended = true;
	req->result = result;
	list_move_tail(&req->node, ended);
}

/**
 * vdmabuf_requests_end - tells those who wait for requests
 * @ended: a list of vdmabuf_request_take()
 *
 * Context: any, without locks: whoever waits for a fence can run here.
 */
void vdmabuf_requests_end(struct list_head *ended)
{
	struct vdmabuf_request *req, *next;
	bool cookie = dma_fence_begin_signalling();

	list_for_each_entry_safe(req, next, ended, node) {
		list_del_init(&req->node);
		req->done(req);
		vdmabuf_request_put(req);
	}
	dma_fence_end_signalling(cookie);
}

/* The device gave @req back. The caller holds vq_lock. */
static void vdmabuf_queue_take(struct vdmabuf_device *vd, struct vdmabuf_queue *queue,
			       struct vdmabuf_request *req, u32 used, struct list_head *ended)
{
	queue->inflight--;
	queue->slow -= req->slow;
	vd->stalled = false;
	req->used = used;
	if (req->orphan) {
		vdmabuf_orphan_add(vd, req);
		return;
	}
	if (!req->ended)
		vdmabuf_request_take(req, 0, ended);
	vdmabuf_request_put(req);
}

/**
 * vdmabuf_queue_done - the callback of the control and fence queue
 * @vq: the queue
 *
 * Context: interrupt.
 */
void vdmabuf_queue_done(struct virtqueue *vq)
{
	struct vdmabuf_device *vd = vq->vdev->priv;
	struct vdmabuf_queue *queue = vq->index == VIRTIO_DMABUF_VQ_FENCE ? &vd->fence :
									    &vd->control;
	struct vdmabuf_request *req;
	unsigned long flags;
	unsigned int used;
	LIST_HEAD(ended);

	spin_lock_irqsave(&vd->vq_lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((req = virtqueue_get_buf(vq, &used)))
			vdmabuf_queue_take(vd, queue, req, used, &ended);
	} while (!virtqueue_enable_cb(vq));
	spin_unlock_irqrestore(&vd->vq_lock, flags);
	vdmabuf_requests_end(&ended);
	wake_up_all(&vd->space);
}

static int vdmabuf_errno(u32 status)
{
	/* The wire has Linux's generic numbers; these are the same everywhere. */
	if (status && status <= ERANGE)
		return -(int)status;
	/* These differ on some architectures. */
	switch (status) {
	case 35:
		return -EDEADLK;
	case 61:
		return -ENODATA;
	case 62:
		return -ETIME;
	case 75:
		return -EOVERFLOW;
	case 90:
		return -EMSGSIZE;
	case 95:
		return -EOPNOTSUPP;
	case 104:
		return -ECONNRESET;
	case 108:
		return -ESHUTDOWN;
	case 110:
		return -ETIMEDOUT;
	case 116:
		return -ESTALE;
	case 121:
		return -EREMOTEIO;
	case 122:
		return -EDQUOT;
	case 125:
		return -ECANCELED;
	case 130:
		return -EOWNERDEAD;
	case 133:
		return -EHWPOISON;
	default:
		return -EIO;
	}
}

/**
 * vdmabuf_parse - checks a reply and copies its body out
 * @req: a request that ended with 0
 * @body: where to; the host can still write to @req->in, so it is read once
 * @min: fewest bytes that are a valid body
 * @max: most bytes
 * @body_len: out: bytes copied
 *
 * Return: 0, what the host answered, or -EPROTO.
 */
int vdmabuf_parse(const struct vdmabuf_request *req, void *body, size_t min, size_t max,
		  size_t *body_len)
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
 * vdmabuf_queue_open - a queue that the session uses from now on
 * @queue: the control or fence queue
 * @vq: its virtqueue
 * @max_inflight: most requests that the device takes at once, apart from those
 *		  that wait for fences
 */
void vdmabuf_queue_open(struct vdmabuf_queue *queue, struct virtqueue *vq, u32 max_inflight)
{
	u32 size = virtqueue_get_vring_size(vq);

	queue->vq = vq;
	queue->max_inflight = max_inflight;
	queue->max_slow = size - min(size / 2, VDMABUF_QUEUE_RESERVE);
}

/**
 * vdmabuf_queues_fail - ends the session: no request is sent any more
 * @vd: the device
 *
 * Pending requests end with -EIO. Their memory stays with the device: see
 * vdmabuf_queue_close().
 */
void vdmabuf_queues_fail(struct vdmabuf_device *vd)
{
	struct vdmabuf_queue *queues[] = { &vd->control, &vd->fence };
	struct vdmabuf_request *req, *next;
	unsigned long flags;
	LIST_HEAD(ended);
	unsigned int i;

	spin_lock_irqsave(&vd->vq_lock, flags);
	vd->live = false;
	for (i = 0; i < ARRAY_SIZE(queues); i++)
		list_for_each_entry_safe(req, next, &queues[i]->pending, node)
			vdmabuf_request_take(req, -EIO, &ended);
	spin_unlock_irqrestore(&vd->vq_lock, flags);
	vdmabuf_requests_end(&ended);
	wake_up_all(&vd->space);
}

/**
 * vdmabuf_queue_close - takes all requests back from a device that was reset
 * @queue: a queue of it, after vdmabuf_queues_fail() and the reset
 */
void vdmabuf_queue_close(struct vdmabuf_queue *queue)
{
	struct vdmabuf_request *req;

	while ((req = virtqueue_detach_unused_buf(queue->vq)))
		vdmabuf_request_put(req);
	queue->vq = NULL;
	queue->inflight = 0;
	queue->slow = 0;
}

/**
 * vdmabuf_queues_init - prepares the fields that this file uses
 * @vd: a new device
 */
void vdmabuf_queues_init(struct vdmabuf_device *vd)
{
	spin_lock_init(&vd->vq_lock);
	INIT_LIST_HEAD(&vd->control.pending);
	INIT_LIST_HEAD(&vd->fence.pending);
	init_waitqueue_head(&vd->space);
}
