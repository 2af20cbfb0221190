// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: sessions.
 *
 * A session lasts from DRIVER_OK to the next reset. Handles, mappings and
 * dma-bufs are of one session, and end with it.
 */
#include <linux/virtio_config.h>

#include "stream.h"

/**
 * vdmabuf_session_start - sets up the queues and begins a session
 * @vd: the device
 *
 * Return: 0 or an error.
 */
int vdmabuf_session_start(struct vdmabuf_device *vd)
{
	struct virtqueue_info info[] = {
		[VIRTIO_DMABUF_VQ_CONTROL] = { "control", vdmabuf_queue_done },
		[VIRTIO_DMABUF_VQ_EVENT] = { "event", vdmabuf_event_done },
		[VIRTIO_DMABUF_VQ_FENCE] = { "fence", vdmabuf_queue_done },
	};
	struct virtqueue *vqs[VIRTIO_DMABUF_NUM_VQS];
	int err;

	err = virtio_find_vqs(vd->vdev, ARRAY_SIZE(vqs), vqs, info, NULL);
	if (err)
		return err;
	virtio_device_ready(vd->vdev);

	spin_lock_irq(&vd->vq_lock);
	vdmabuf_queue_open(&vd->control, vqs[VIRTIO_DMABUF_VQ_CONTROL], vd->max_inflight);
	vdmabuf_queue_open(&vd->fence, vqs[VIRTIO_DMABUF_VQ_FENCE], vd->max_inflight);
	vd->event = vqs[VIRTIO_DMABUF_VQ_EVENT];
	vd->session++;
	vd->stream_events = 0;
	vd->stalled = false;
	vd->closing = false;
	vd->live = true;
	spin_unlock_irq(&vd->vq_lock);

	vdmabuf_event_fill(vd);
	return 0;
}

/**
 * vdmabuf_session_stop - gives back what the session holds, and resets the device
 * @vd: the device
 *
 * A reset drops what is mapped in the dynamic window, so all users have to let
 * go of it first. The host is asked to unmap it before the reset, too: QEMU 11.1
 * has freed a mapping that was there at a reset, but crashes at the next one.
 */
void vdmabuf_session_stop(struct vdmabuf_device *vd)
{
	vdmabuf_control_close(vd);
	vdmabuf_streams_stop(vd);
	vdmabuf_revoke_stop(vd);
	vdmabuf_buffers_revoke(vd, NULL);
	vdmabuf_buffers_unmap(vd);
	vdmabuf_control_settle(vd);
	vdmabuf_queues_fail(vd);
	vdmabuf_deadline_stop(vd);
	vdmabuf_chardev_wake(vd);
	/* None is open after a failed restore. */
	if (!vd->control.vq)
		return;
	virtio_reset_device(vd->vdev);
	vdmabuf_queue_close(&vd->control);
	vdmabuf_queue_close(&vd->fence);
	vd->event = NULL;
	vd->vdev->config->del_vqs(vd->vdev);
}

/**
 * vdmabuf_session - the session that is open now
 * @vd: the device
 *
 * Return: its number; requests of a session that isn't live fail.
 */
u64 vdmabuf_session(struct vdmabuf_device *vd)
{
	u64 session;

	spin_lock_irq(&vd->vq_lock);
	session = vd->session;
	spin_unlock_irq(&vd->vq_lock);
	return session;
}

/**
 * vdmabuf_session_enter - begins to use the session that is open now
 * @vd: the device
 *
 * The session isn't reset before vdmabuf_session_leave(), unless the device
 * doesn't answer.
 *
 * Return: its number, or 0 if none is open.
 */
u64 vdmabuf_session_enter(struct vdmabuf_device *vd)
{
	u64 session = 0;

	spin_lock_irq(&vd->vq_lock);
	if (vd->live && !vd->closing) {
		session = vd->session;
		vd->opening++;
	}
	spin_unlock_irq(&vd->vq_lock);
	return session;
}

/**
 * vdmabuf_session_leave - the opposite of vdmabuf_session_enter()
 * @vd: the device
 */
void vdmabuf_session_leave(struct vdmabuf_device *vd)
{
	spin_lock_irq(&vd->vq_lock);
	vd->opening--;
	spin_unlock_irq(&vd->vq_lock);
	wake_up_all(&vd->space);
}

/**
 * vdmabuf_session_is - whether handles of a session are still good
 * @vd: the device
 * @session: the session
 *
 * Return: true if it is open.
 */
bool vdmabuf_session_is(struct vdmabuf_device *vd, u64 session)
{
	bool same;

	spin_lock_irq(&vd->vq_lock);
	same = vd->live && !vd->closing && vd->session == session;
	spin_unlock_irq(&vd->vq_lock);
	return same;
}
