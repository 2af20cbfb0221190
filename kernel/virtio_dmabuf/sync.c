// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: CPU access to a dma-buf, brought to the host.
 *
 * DMA_BUF_IOCTL_SYNC of the guest becomes SYNC_START and SYNC_END: the host waits
 * for its fences, and does to its caches what its dma-buf needs.
 */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/sched.h>
#include <linux/uuid.h>

#include "vdmabuf.h"

static u32 vdmabuf_sync_flags(enum dma_data_direction dir)
{
	u32 flags = 0;

	if (dir != DMA_TO_DEVICE)
		flags |= VIRTIO_DMABUF_USAGE_READ;
	if (dir != DMA_FROM_DEVICE)
		flags |= VIRTIO_DMABUF_USAGE_WRITE;
	return flags;
}

static int vdmabuf_sync(struct vdmabuf_buffer *buf, u32 op, enum dma_data_direction dir)
{
	struct virtio_dmabuf_sync body = {
		.handle = cpu_to_le64(buf->handle),
		.flags = cpu_to_le32(vdmabuf_sync_flags(dir)),
	};
	struct virtio_dmabuf_sync_resp reply;
	struct vdmabuf_call call = {
		.session = buf->session,
		.op = op,
		.body = &body,
		.body_len = sizeof(body),
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};
	int err;

	if (op == VIRTIO_DMABUF_SYNC_START) {
		call.interruptible = true;
		call.timeout = msecs_to_jiffies(vdmabuf_fence_timeout_ms(0)) +
			       vdmabuf_request_timeout();
	}
	err = vdmabuf_call(buf->vd, &call);
	/*
	 * The memory of a static window stays readable when the host's daemon is
	 * gone, and needs no help from it.
	 */
	if ((err == -EIO || err == -ETIMEDOUT) && !call.answered && !uuid_is_null(&buf->win->uuid))
		return 0;
	return err;
}

/**
 * vdmabuf_sync_start - begins CPU access
 * @buf: the buffer
 * @dir: DMA_FROM_DEVICE to read, DMA_TO_DEVICE to write
 *
 * Return: 0; -ERESTARTSYS; -ETIMEDOUT: a fence of the host hasn't signalled in time;
 * or an error of the host.
 */
int vdmabuf_sync_start(struct vdmabuf_buffer *buf, enum dma_data_direction dir)
{
	bool write = dir != DMA_FROM_DEVICE;
	long left;

	if (!buf->vd->has_fence)
		return 0;
	/* The core does this, too, but fails without an end when it is interrupted. */
	left = dma_resv_wait_timeout(buf->dmabuf->resv, dma_resv_usage_rw(write), true,
				     MAX_SCHEDULE_TIMEOUT);
	if (left < 0)
		return left;
	return vdmabuf_sync(buf, VIRTIO_DMABUF_SYNC_START, dir);
}

/**
 * vdmabuf_sync_end - ends CPU access
 * @buf: the buffer
 * @dir: as of vdmabuf_sync_start()
 *
 * Return: 0 or an error.
 */
int vdmabuf_sync_end(struct vdmabuf_buffer *buf, enum dma_data_direction dir)
{
	int err;

	if (!buf->vd->has_fence)
		return 0;
	err = vdmabuf_sync(buf, VIRTIO_DMABUF_SYNC_END, dir);
	/* None was begun: that is no error of any dma-buf. */
	return err == -EINVAL ? 0 : err;
}

/**
 * vdmabuf_sync_undo - ends what a SYNC_START began that nobody waited for
 * @vd: the device
 * @req: the request, answered
 */
void vdmabuf_sync_undo(struct vdmabuf_device *vd, const struct vdmabuf_request *req)
{
	struct virtio_dmabuf_sync_resp reply;
	struct vdmabuf_call call = {
		.session = req->session,
		.op = VIRTIO_DMABUF_SYNC_END,
		.body = req->out + sizeof(struct virtio_dmabuf_req_hdr),
		.body_len = sizeof(struct virtio_dmabuf_sync),
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};
	size_t len;

	if (!vdmabuf_parse(req, &reply, sizeof(reply), sizeof(reply), &len))
		vdmabuf_call(vd, &call);
}
