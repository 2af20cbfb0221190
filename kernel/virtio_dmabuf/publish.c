// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: the ioctls by which a guest shares what it has
 * allocated.
 */
#include <linux/string.h>
#include <linux/uaccess.h>

#include "vdmabuf.h"

/**
 * vdmabuf_ioc_publish - gives a buffer that this guest has allocated a name
 * @vd: the device
 * @uarg: struct virtio_dmabuf_ioc_publish
 *
 * Return: 0, or an error as of vdmabuf_call(); -EINVAL for what isn't a dma-buf
 * of this device.
 */
int vdmabuf_ioc_publish(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_publish body = { };
	struct vdmabuf_call call = {
		.op = VIRTIO_DMABUF_PUBLISH,
		.body = &body,
		.body_len = sizeof(body),
	};
	struct virtio_dmabuf_ioc_publish arg;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if ((arg.flags & ~VIRTIO_DMABUF_PUBLISH_KEEP) || !vdmabuf_name_ok(arg.name))
		return -EINVAL;
	body.flags = cpu_to_le64(arg.flags);
	vdmabuf_format_to_wire(&body.format, &arg.format);
	memcpy(body.name, arg.name, sizeof(body.name));
	return vdmabuf_call_fd(vd, arg.fd, &call, &body.handle);
}

/**
 * vdmabuf_ioc_withdraw - takes a name away
 * @vd: the device
 * @uarg: struct virtio_dmabuf_ioc_withdraw
 *
 * Return: 0, or an error as of vdmabuf_call().
 */
int vdmabuf_ioc_withdraw(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_ioc_withdraw arg;
	struct virtio_dmabuf_withdraw body;
	struct vdmabuf_call call = {
		.session = vdmabuf_session(vd),
		.op = VIRTIO_DMABUF_WITHDRAW,
		.body = &body,
		.body_len = sizeof(body),
	};

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (!vdmabuf_name_ok(arg.name))
		return -EINVAL;
	memcpy(body.name, arg.name, sizeof(body.name));
	return vdmabuf_call(vd, &call);
}

/**
 * vdmabuf_ioc_revoke - takes a buffer that this guest has allocated away from others
 * @vd: the device
 * @uarg: struct virtio_dmabuf_ioc_revoke
 *
 * Return: 0, or an error as of vdmabuf_call(); -EINVAL for what isn't a dma-buf
 * of this device.
 */
int vdmabuf_ioc_revoke(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_revoke body = { };
	struct vdmabuf_call call = {
		.op = VIRTIO_DMABUF_REVOKE,
		.body = &body,
		.body_len = sizeof(body),
	};
	struct virtio_dmabuf_ioc_revoke arg;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (arg.reserved)
		return -EINVAL;
	body.deadline_ms = cpu_to_le32(arg.deadline_ms);
	return vdmabuf_call_fd(vd, arg.fd, &call, &body.handle);
}
