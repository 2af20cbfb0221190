// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: the ioctls for fences, holds and releases.
 */
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/sync_file.h>
#include <linux/uaccess.h>

#include "vdmabuf.h"

static bool vdmabuf_usage_ok(u32 usage)
{
	return usage == VIRTIO_DMABUF_USAGE_READ || usage == VIRTIO_DMABUF_USAGE_WRITE;
}

/* Puts @base into a file at @fd, when @arg has told the caller which. */
static int vdmabuf_fence_install(struct dma_fence *base, struct virtio_dmabuf_ioc_fence *arg,
				 void __user *uarg)
{
	struct sync_file *file = sync_file_create(base);
	int fd;

	if (!file)
		return -ENOMEM;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		fput(file->file);
		return fd;
	}
	arg->sync_file = fd;
	if (copy_to_user(uarg, arg, sizeof(*arg))) {
		put_unused_fd(fd);
		fput(file->file);
		return -EFAULT;
	}
	fd_install(fd, file->file);
	return 0;
}

static int vdmabuf_ioc_fence(struct vdmabuf_device *vd, void __user *uarg, bool nonblock)
{
	struct virtio_dmabuf_ioc_fence arg;
	struct vdmabuf_buffer *buf;
	struct dma_fence *base;
	int err = 0;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (!vdmabuf_usage_ok(arg.usage) || arg.reserved ||
	    (arg.flags & ~VIRTIO_DMABUF_FENCE_SYNC_FILE))
		return -EINVAL;
	buf = vdmabuf_buffer_get(vd, arg.fd);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	if (!buf->writable && arg.usage == VIRTIO_DMABUF_USAGE_WRITE) {
		err = -EACCES;
		goto put;
	}
	base = vdmabuf_fence_wait(buf, arg.usage, vdmabuf_fence_timeout_ms(arg.timeout_ms),
				  nonblock);
	if (IS_ERR(base)) {
		err = PTR_ERR(base);
		goto put;
	}
	arg.sync_file = -1;
	if (arg.flags & VIRTIO_DMABUF_FENCE_SYNC_FILE)
		err = vdmabuf_fence_install(base, &arg, uarg);
	else if (copy_to_user(uarg, &arg, sizeof(arg)))
		err = -EFAULT;
	dma_fence_put(base);
put:
	dma_buf_put(buf->dmabuf);
	return err;
}

static int vdmabuf_ioc_cancel(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_ioc_cancel arg;
	struct dma_fence *base;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (arg.reserved)
		return -EINVAL;
	base = sync_file_get_fence(arg.sync_file);
	if (!base)
		return -EINVAL;
	err = vdmabuf_fence_cancel(vd, base);
	dma_fence_put(base);
	return err;
}

static int vdmabuf_ioc_query(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_fence_query body = { };
	struct virtio_dmabuf_fence_query_resp reply;
	struct vdmabuf_call call = {
		.op = VIRTIO_DMABUF_FENCE_QUERY,
		.body = &body,
		.body_len = sizeof(body),
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};
	struct virtio_dmabuf_ioc_query arg;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (!vdmabuf_usage_ok(arg.usage))
		return -EINVAL;
	body.usage = cpu_to_le32(arg.usage);
	err = vdmabuf_call_fd(vd, arg.fd, &call, &body.handle);
	if (err)
		return err;
	arg.flags = le32_to_cpu(reply.flags);
	arg.fences = le32_to_cpu(reply.fences);
	arg.state = le32_to_cpu(reply.state);
	arg.error = le32_to_cpu(reply.error);
	return copy_to_user(uarg, &arg, sizeof(arg)) ? -EFAULT : 0;
}

static int vdmabuf_ioc_hold(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_hold body = { };
	struct virtio_dmabuf_hold_resp reply;
	struct vdmabuf_call call = {
		.op = VIRTIO_DMABUF_HOLD,
		.body = &body,
		.body_len = sizeof(body),
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};
	struct virtio_dmabuf_ioc_hold arg;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (!vdmabuf_usage_ok(arg.usage) || arg.reserved)
		return -EINVAL;
	body.usage = cpu_to_le32(arg.usage);
	body.timeout_ms = cpu_to_le32(arg.timeout_ms);
	err = vdmabuf_call_fd(vd, arg.fd, &call, &body.handle);
	if (err)
		return err;
	arg.timeout_ms = le32_to_cpu(reply.timeout_ms);
	return copy_to_user(uarg, &arg, sizeof(arg)) ? -EFAULT : 0;
}

static int vdmabuf_ioc_release(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_release body = { };
	struct vdmabuf_call call = {
		.op = VIRTIO_DMABUF_RELEASE,
		.body = &body,
		.body_len = sizeof(body),
	};
	struct virtio_dmabuf_ioc_release arg;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (arg.reserved)
		return -EINVAL;
	body.value = cpu_to_le64(arg.value);
	return vdmabuf_call_fd(vd, arg.fd, &call, &body.handle);
}

/**
 * vdmabuf_fence_ioctl - ioctls of /dev/virtio-dmabufN for fences
 * @vd: the device
 * @cmd: the ioctl
 * @uarg: its argument
 * @nonblock: the file is O_NONBLOCK
 *
 * Return: 0 or an error; -ENOTTY for other ioctls; -EOPNOTSUPP: the host's device
 * has no fences.
 */
long vdmabuf_fence_ioctl(struct vdmabuf_device *vd, unsigned int cmd, void __user *uarg,
			 bool nonblock)
{
	switch (cmd) {
	case VIRTIO_DMABUF_IOC_FENCE:
	case VIRTIO_DMABUF_IOC_CANCEL:
	case VIRTIO_DMABUF_IOC_QUERY:
	case VIRTIO_DMABUF_IOC_HOLD:
	case VIRTIO_DMABUF_IOC_RELEASE:
		if (!vd->has_fence)
			return -EOPNOTSUPP;
		break;
	}
	switch (cmd) {
	case VIRTIO_DMABUF_IOC_FENCE:
		return vdmabuf_ioc_fence(vd, uarg, nonblock);
	case VIRTIO_DMABUF_IOC_CANCEL:
		return vdmabuf_ioc_cancel(vd, uarg);
	case VIRTIO_DMABUF_IOC_QUERY:
		return vdmabuf_ioc_query(vd, uarg);
	case VIRTIO_DMABUF_IOC_HOLD:
		return vdmabuf_ioc_hold(vd, uarg);
	case VIRTIO_DMABUF_IOC_RELEASE:
		return vdmabuf_ioc_release(vd, uarg);
	default:
		return -ENOTTY;
	}
}
