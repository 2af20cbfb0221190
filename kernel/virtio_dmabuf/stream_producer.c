// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: a producer's end of a stream. The ioctls of the file
 * hand buffers over to the consumers, and take them back.
 */
#include <linux/bits.h>
#include <linux/dma-buf.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "stream.h"

/* Whether a buffer may be free. */
static bool vdmabuf_producer_ask(struct vdmabuf_stream *stream)
{
	return READ_ONCE(stream->look) || !vdmabuf_stream_live(stream);
}

static int vdmabuf_index_parse(struct vdmabuf_stream *stream,
			       const struct virtio_dmabuf_stream_index_resp *reply, u32 *index)
{
	*index = le32_to_cpu(reply->index);
	if (*index < VIRTIO_DMABUF_STREAM_BUFFERS)
		return 0;
	dev_warn_ratelimited(&stream->vd->dev, "malformed index of a buffer\n");
	return -EIO;
}

static int vdmabuf_producer_add(struct vdmabuf_stream *stream, const struct vdmabuf_buffer *buf,
				u32 *index)
{
	struct virtio_dmabuf_stream_add body = {
		.stream = cpu_to_le64(stream->number),
		.handle = cpu_to_le64(buf->handle),
	};
	struct virtio_dmabuf_stream_index_resp reply;
	int err;

	/* Its handle could be another one's by now. */
	if (buf->session != stream->session)
		return -ESTALE;
	err = vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_ADD, &body, sizeof(body),
				  &reply, sizeof(reply));
	return err ?: vdmabuf_index_parse(stream, &reply, index);
}

static int vdmabuf_ioc_producer_add(struct vdmabuf_stream *stream, void __user *uarg)
{
	struct virtio_dmabuf_ioc_stream_add arg;
	struct vdmabuf_buffer *buf;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	buf = vdmabuf_buffer_get(stream->vd, arg.fd);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	err = vdmabuf_producer_add(stream, buf, &arg.index);
	dma_buf_put(buf->dmabuf);
	if (err)
		return err;
	return copy_to_user(uarg, &arg, sizeof(arg)) ? -EFAULT : 0;
}

static int vdmabuf_ioc_producer_queue(struct vdmabuf_stream *stream, void __user *uarg)
{
	struct virtio_dmabuf_stream_queue body = { .stream = cpu_to_le64(stream->number) };
	struct virtio_dmabuf_stream_queue_resp reply;
	struct virtio_dmabuf_ioc_stream_queue arg;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	body.timestamp_ns = cpu_to_le64(arg.timestamp_ns);
	body.index = cpu_to_le32(arg.index);
	body.flags = cpu_to_le32(arg.flags);
	err = vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_QUEUE, &body, sizeof(body),
				  &reply, sizeof(reply));
	if (err)
		return err;
	/* As long as nobody has acquired it, it can be taken back. */
	WRITE_ONCE(stream->look, true);
	arg.sequence = le64_to_cpu(reply.sequence);
	return copy_to_user(uarg, &arg, sizeof(arg)) ? -EFAULT : 0;
}

/**
 * vdmabuf_stream_returned - the host has given a buffer back, and nobody has heard of it
 * @stream: the producer's end
 * @index: of the buffer, as the host says; whoever asks next gets it
 *
 * Context: the caller holds client_lock.
 */
void vdmabuf_stream_returned(struct vdmabuf_stream *stream, u32 index)
{
	if (index >= VIRTIO_DMABUF_STREAM_BUFFERS)
		return;
	stream->returned |= BIT_ULL(index);
	WRITE_ONCE(stream->look, true);
	wake_up_all(&stream->wait);
}

/* One of the buffers of vdmabuf_stream_returned(). */
static bool vdmabuf_producer_returned(struct vdmabuf_stream *stream, u32 *index)
{
	bool found;

	spin_lock_irq(&stream->vd->client_lock);
	found = stream->returned;
	if (found) {
		*index = __ffs64(stream->returned);
		stream->returned &= ~BIT_ULL(*index);
	}
	spin_unlock_irq(&stream->vd->client_lock);
	return found;
}

/* A buffer from the host. The caller holds the stream's lock. */
static int vdmabuf_producer_reclaim(struct vdmabuf_stream *stream, u32 *index)
{
	struct virtio_dmabuf_stream body = { .stream = cpu_to_le64(stream->number) };
	struct virtio_dmabuf_stream_index_resp reply;
	int err;

	if (vdmabuf_producer_returned(stream, index))
		return 0;
	/* The host tells once after each time that it had none. */
	WRITE_ONCE(stream->look, false);
	err = vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_RECLAIM, &body, sizeof(body),
				  &reply, sizeof(reply));
	if (err != -EAGAIN)
		WRITE_ONCE(stream->look, true);
	return err ?: vdmabuf_index_parse(stream, &reply, index);
}

static int vdmabuf_producer_take(struct vdmabuf_stream *stream, u32 *index)
{
	int err = mutex_lock_interruptible(&stream->lock);

	if (err)
		return err;
	err = vdmabuf_producer_reclaim(stream, index);
	mutex_unlock(&stream->lock);
	return err;
}

/* A free buffer, which is waited for unless @nonblock. */
static int vdmabuf_producer_wait(struct vdmabuf_stream *stream, bool nonblock, u32 *index)
{
	int err;

	for (;;) {
		err = vdmabuf_producer_take(stream, index);
		if (err != -EAGAIN || nonblock)
			return err;
		if (signal_pending(current))
			return -ERESTARTSYS;
		err = wait_event_interruptible(stream->wait, vdmabuf_producer_ask(stream));
		if (err)
			return err;
	}
}

static int vdmabuf_ioc_producer_reclaim(struct vdmabuf_stream *stream, void __user *uarg,
					bool nonblock)
{
	struct virtio_dmabuf_ioc_stream_reclaim arg = { };
	int err = vdmabuf_producer_wait(stream, nonblock, &arg.index);

	if (err)
		return err;
	if (!copy_to_user(uarg, &arg, sizeof(arg)))
		return 0;
	spin_lock_irq(&stream->vd->client_lock);
	vdmabuf_stream_returned(stream, arg.index);
	spin_unlock_irq(&stream->vd->client_lock);
	return -EFAULT;
}

static int vdmabuf_ioc_producer_revoke(struct vdmabuf_stream *stream, void __user *uarg)
{
	struct virtio_dmabuf_stream_revoke body = { .stream = cpu_to_le64(stream->number) };
	struct virtio_dmabuf_ioc_stream_revoke arg;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (arg.reserved)
		return -EINVAL;
	body.deadline_ms = cpu_to_le32(arg.deadline_ms);
	err = vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_REVOKE, &body, sizeof(body),
				  NULL, 0);
	/* Whoever waits for a free buffer is to hear that there is no stream any more. */
	WRITE_ONCE(stream->look, true);
	wake_up_all(&stream->wait);
	return err;
}

static long vdmabuf_producer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vdmabuf_stream *stream = file->private_data;
	void __user *uarg = (void __user *)arg;

	switch (cmd) {
	case VIRTIO_DMABUF_IOC_STREAM_ADD:
		return vdmabuf_ioc_producer_add(stream, uarg);
	case VIRTIO_DMABUF_IOC_STREAM_QUEUE:
		return vdmabuf_ioc_producer_queue(stream, uarg);
	case VIRTIO_DMABUF_IOC_STREAM_RECLAIM:
		return vdmabuf_ioc_producer_reclaim(stream, uarg, file->f_flags & O_NONBLOCK);
	case VIRTIO_DMABUF_IOC_STREAM_REVOKE:
		return vdmabuf_ioc_producer_revoke(stream, uarg);
	default:
		return -ENOTTY;
	}
}

static __poll_t vdmabuf_producer_poll(struct file *file, poll_table *table)
{
	struct vdmabuf_stream *stream = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &stream->wait, table);
	if (vdmabuf_producer_ask(stream))
		mask |= EPOLLOUT | EPOLLWRNORM;
	if (!vdmabuf_stream_live(stream))
		mask |= EPOLLERR | EPOLLHUP;
	return mask;
}

static const struct file_operations vdmabuf_producer_fops = {
	.owner = THIS_MODULE,
	.release = vdmabuf_stream_close_file,
	.poll = vdmabuf_producer_poll,
	.unlocked_ioctl = vdmabuf_producer_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static int vdmabuf_host_stream_create(struct vdmabuf_stream *stream,
				      const struct virtio_dmabuf_ioc_stream_create *arg,
				      struct virtio_dmabuf_stream_create_resp *reply)
{
	struct virtio_dmabuf_stream_create body = { };

	memcpy(body.name, arg->name, sizeof(body.name));
	vdmabuf_format_to_wire(&body.format, &arg->format);
	return vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_CREATE, &body, sizeof(body),
				   reply, sizeof(*reply));
}

/**
 * vdmabuf_ioc_stream_create - makes this guest the producer of a new stream
 * @vd: the device
 * @uarg: struct virtio_dmabuf_ioc_stream_create
 *
 * Return: 0, or an error as of vdmabuf_call().
 */
int vdmabuf_ioc_stream_create(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_ioc_stream_create arg;
	struct virtio_dmabuf_stream_create_resp reply;
	struct vdmabuf_stream *stream;
	struct file *file;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if ((arg.flags & ~(O_CLOEXEC | O_NONBLOCK)) || !vdmabuf_name_ok(arg.name))
		return -EINVAL;
	stream = vdmabuf_stream_new(vd);
	if (IS_ERR(stream))
		return PTR_ERR(stream);
	/* It isn't known yet whether a buffer is free. */
	stream->look = true;
	err = vdmabuf_host_stream_create(stream, &arg, &reply);
	if (err) {
		vdmabuf_stream_end(stream);
		return err;
	}
	arg.id = le64_to_cpu(reply.id);
	arg.fd = vdmabuf_stream_file(stream, le64_to_cpu(reply.stream), &vdmabuf_producer_fops,
				     arg.flags, &file);
	if (arg.fd < 0)
		return arg.fd;
	return vdmabuf_stream_install(file, arg.fd, uarg, &arg, sizeof(arg));
}
