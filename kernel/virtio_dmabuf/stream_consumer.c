// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: a consumer's end of a stream. Reading the file acquires
 * frames; its ioctls give them back, and make dma-bufs of the stream's buffers.
 */
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "stream.h"

/* Whether the host can have something else to say than that there is nothing. */
static bool vdmabuf_consumer_ask(struct vdmabuf_stream *stream)
{
	return READ_ONCE(stream->look) || READ_ONCE(stream->early) ||
	       READ_ONCE(stream->withdrawn) || !vdmabuf_stream_live(stream);
}

static int vdmabuf_consumer_release(struct vdmabuf_stream *stream, u64 sequence)
{
	struct virtio_dmabuf_stream_release body = {
		.stream = cpu_to_le64(stream->number),
		.sequence = cpu_to_le64(sequence),
	};

	return vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_RELEASE, &body, sizeof(body),
				   NULL, 0);
}

/* The next frame from the host. The caller holds the stream's lock. */
static int vdmabuf_consumer_acquire(struct vdmabuf_stream *stream,
				    struct virtio_dmabuf_frame_resp *frame)
{
	struct virtio_dmabuf_stream body = { .stream = cpu_to_le64(stream->number) };
	int err;

	if (!vdmabuf_consumer_ask(stream))
		return -EAGAIN;
	/* An event that comes from now on stays: it can be about a later frame. */
	WRITE_ONCE(stream->look, false);
	err = vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_ACQUIRE, &body, sizeof(body),
				  frame, sizeof(*frame));
	switch (err) {
	case 0:
		if (frame->ready)
			WRITE_ONCE(stream->look, true);
		break;
	case -EAGAIN:
		/* What was told before the number was known is no news any more. */
		WRITE_ONCE(stream->early, false);
		break;
	case -ENODEV:
		WRITE_ONCE(stream->withdrawn, true);
		break;
	default:
		WRITE_ONCE(stream->look, true);
	}
	return err;
}

static int vdmabuf_consumer_open(struct vdmabuf_stream *stream, u32 index, u32 enforcement)
{
	struct vdmabuf_stream_buffer *buffer = &stream->buffers[index];
	struct virtio_dmabuf_stream_buffer body = {
		.stream = cpu_to_le64(stream->number),
		.index = cpu_to_le32(index),
		.enforcement = cpu_to_le32(enforcement),
	};
	struct vdmabuf_want want = {
		.access = VIRTIO_DMABUF_RDONLY,
		.fd_flags = O_RDONLY,
		.exporter = KBUILD_MODNAME,
	};
	struct virtio_dmabuf_open_resp open;
	struct dma_buf *dmabuf;
	int err;

	err = vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_BUFFER, &body, sizeof(body),
				  &open, sizeof(open));
	if (err)
		return err;
	dmabuf = vdmabuf_buffer_make(stream->vd, stream->session, &open, &want,
				     &buffer->enforcement);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	buffer->dmabuf = dmabuf;
	return 0;
}

/* One of the stream's buffers, made when it is asked for first. The caller holds the lock. */
static struct vdmabuf_stream_buffer *vdmabuf_consumer_buffer(struct vdmabuf_stream *stream,
							     u32 index, u32 enforcement)
{
	struct vdmabuf_stream_buffer *buffer;
	u64 session;
	int err = 0;

	if (index >= ARRAY_SIZE(stream->buffers))
		return ERR_PTR(-EINVAL);
	index = array_index_nospec(index, ARRAY_SIZE(stream->buffers));
	buffer = &stream->buffers[index];
	session = vdmabuf_session_enter(stream->vd);
	if (!session)
		return ERR_PTR(-EIO);
	if (session != stream->session)
		err = -EIO;
	else if (!buffer->dmabuf)
		err = vdmabuf_consumer_open(stream, index, enforcement);
	else if (buffer->enforcement < enforcement)
		err = -EACCES;
	vdmabuf_session_leave(stream->vd);
	return err ? ERR_PTR(err) : buffer;
}

/* Brings a frame's fence to its buffer. The caller holds the stream's lock. */
static int vdmabuf_consumer_fence(struct vdmabuf_stream *stream, u32 index)
{
	struct vdmabuf_stream_buffer *buffer = vdmabuf_consumer_buffer(stream, index, 0);
	struct dma_fence *fence;

	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	fence = vdmabuf_fence_wait(vdmabuf_buffer_of(buffer->dmabuf), VIRTIO_DMABUF_USAGE_READ,
				   vdmabuf_fence_timeout_ms(0), false);
	if (IS_ERR(fence))
		return PTR_ERR(fence);
	dma_fence_put(fence);
	return 0;
}

static bool vdmabuf_frame_ok(struct vdmabuf_stream *stream,
			     const struct virtio_dmabuf_ioc_frame *frame)
{
	if (frame->index < VIRTIO_DMABUF_STREAM_BUFFERS)
		return true;
	dev_warn_ratelimited(&stream->vd->dev, "malformed frame\n");
	return false;
}

/* Acquires one frame, which is given back if it can't be used. */
static int vdmabuf_consumer_take(struct vdmabuf_stream *stream,
				 struct virtio_dmabuf_ioc_frame *out)
{
	struct virtio_dmabuf_frame_resp frame;
	int err = mutex_lock_interruptible(&stream->lock);

	if (err)
		return err;
	err = vdmabuf_consumer_acquire(stream, &frame);
	if (err)
		goto unlock;
	out->sequence = le64_to_cpu(frame.sequence);
	out->timestamp_ns = le64_to_cpu(frame.timestamp_ns);
	out->skipped = le64_to_cpu(frame.skipped);
	out->index = le32_to_cpu(frame.index);
	out->flags = le32_to_cpu(frame.flags);
	out->hold_ms = le32_to_cpu(frame.hold_ms);
	out->ready = le32_to_cpu(frame.ready);
	if (!vdmabuf_frame_ok(stream, out))
		err = -EIO;
	else if (stream->fences && (out->flags & VIRTIO_DMABUF_FRAME_FENCED))
		err = vdmabuf_consumer_fence(stream, out->index);
	if (err)
		vdmabuf_consumer_release(stream, out->sequence);
unlock:
	mutex_unlock(&stream->lock);
	return err;
}

/* One frame for a reader, who waits for it unless @nonblock. */
static int vdmabuf_consumer_next(struct vdmabuf_stream *stream, char __user *ubuf, bool nonblock)
{
	struct virtio_dmabuf_ioc_frame frame;
	int err;

	for (;;) {
		err = vdmabuf_consumer_take(stream, &frame);
		if (err != -EAGAIN || nonblock)
			break;
		/* The host can say again and again that there is something when there is not. */
		if (signal_pending(current))
			return -ERESTARTSYS;
		err = wait_event_interruptible(stream->wait, vdmabuf_consumer_ask(stream));
		if (err)
			return err;
	}
	if (!err && copy_to_user(ubuf, &frame, sizeof(frame))) {
		vdmabuf_consumer_release(stream, frame.sequence);
		err = -EFAULT;
	}
	return err;
}

static ssize_t vdmabuf_consumer_read(struct file *file, char __user *ubuf, size_t size,
				     loff_t *pos)
{
	struct vdmabuf_stream *stream = file->private_data;
	const size_t one = sizeof(struct virtio_dmabuf_ioc_frame);
	bool nonblock = file->f_flags & O_NONBLOCK;
	size_t done = 0;
	int err;

	if (size < one)
		return -EINVAL;
	do {
		err = vdmabuf_consumer_next(stream, ubuf + done, nonblock || done);
		if (!err)
			done += one;
	} while (!err && size - done >= one && READ_ONCE(stream->look));
	if (done)
		return done;
	return err == -ENODEV ? 0 : err;
}

static __poll_t vdmabuf_consumer_poll(struct file *file, poll_table *table)
{
	struct vdmabuf_stream *stream = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &stream->wait, table);
	if (vdmabuf_consumer_ask(stream))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(stream->withdrawn))
		mask |= EPOLLHUP;
	if (!vdmabuf_stream_live(stream))
		mask |= EPOLLERR | EPOLLHUP;
	return mask;
}

static int vdmabuf_ioc_consumer_release(struct vdmabuf_stream *stream, void __user *uarg)
{
	struct virtio_dmabuf_ioc_stream_release arg;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	return vdmabuf_consumer_release(stream, arg.sequence);
}

/* The dma-buf with a reference, and what it is. */
static struct dma_buf *vdmabuf_consumer_dmabuf(struct vdmabuf_stream *stream,
					       struct virtio_dmabuf_ioc_stream_buffer *arg)
{
	struct vdmabuf_stream_buffer *buffer;
	struct dma_buf *dmabuf;
	int err = mutex_lock_interruptible(&stream->lock);

	if (err)
		return ERR_PTR(err);
	buffer = vdmabuf_consumer_buffer(stream, arg->index, arg->enforcement);
	if (IS_ERR(buffer)) {
		dmabuf = ERR_CAST(buffer);
	} else {
		dmabuf = buffer->dmabuf;
		get_dma_buf(dmabuf);
		arg->enforcement = buffer->enforcement;
		arg->size = dmabuf->size;
	}
	mutex_unlock(&stream->lock);
	return dmabuf;
}

static int vdmabuf_ioc_consumer_buffer(struct vdmabuf_stream *stream, void __user *uarg)
{
	struct virtio_dmabuf_ioc_stream_buffer arg;
	struct dma_buf *dmabuf;
	int err, fd;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if ((arg.flags & ~O_CLOEXEC) || arg.enforcement > VIRTIO_DMABUF_ENFORCE_SEALED)
		return -EINVAL;
	fd = get_unused_fd_flags(arg.flags);
	if (fd < 0)
		return fd;
	dmabuf = vdmabuf_consumer_dmabuf(stream, &arg);
	if (IS_ERR(dmabuf)) {
		err = PTR_ERR(dmabuf);
		goto put_fd;
	}
	arg.fd = fd;
	if (copy_to_user(uarg, &arg, sizeof(arg))) {
		err = -EFAULT;
		goto put_dmabuf;
	}
	fd_install(fd, dmabuf->file);
	return 0;

put_dmabuf:
	dma_buf_put(dmabuf);
put_fd:
	put_unused_fd(fd);
	return err;
}

static long vdmabuf_consumer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vdmabuf_stream *stream = file->private_data;
	void __user *uarg = (void __user *)arg;

	switch (cmd) {
	case VIRTIO_DMABUF_IOC_STREAM_RELEASE:
		return vdmabuf_ioc_consumer_release(stream, uarg);
	case VIRTIO_DMABUF_IOC_STREAM_BUFFER:
		return vdmabuf_ioc_consumer_buffer(stream, uarg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations vdmabuf_consumer_fops = {
	.owner = THIS_MODULE,
	.release = vdmabuf_stream_close_file,
	.read = vdmabuf_consumer_read,
	.poll = vdmabuf_consumer_poll,
	.unlocked_ioctl = vdmabuf_consumer_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static int vdmabuf_host_stream_open(struct vdmabuf_stream *stream,
				    const struct virtio_dmabuf_ioc_stream_open *arg,
				    struct virtio_dmabuf_stream_open_resp *reply)
{
	struct virtio_dmabuf_stream_open body = {
		.mode = cpu_to_le32(arg->mode),
		.depth = cpu_to_le32(arg->depth),
		.hold_ms = cpu_to_le32(arg->hold_ms),
	};

	memcpy(body.name, arg->name, sizeof(body.name));
	return vdmabuf_stream_call(stream, VIRTIO_DMABUF_STREAM_OPEN, &body, sizeof(body),
				   reply, sizeof(*reply));
}

static int vdmabuf_stream_open_check(const struct vdmabuf_device *vd,
				     const struct virtio_dmabuf_ioc_stream_open *arg)
{
	/* Mode and depth are for the host to check. */
	if ((arg->flags & ~(O_CLOEXEC | O_NONBLOCK)) ||
	    (arg->options & ~VIRTIO_DMABUF_STREAM_FENCES) || !vdmabuf_name_ok(arg->name))
		return -EINVAL;
	if ((arg->options & VIRTIO_DMABUF_STREAM_FENCES) && !vd->has_fence)
		return -EOPNOTSUPP;
	return 0;
}

/**
 * vdmabuf_ioc_stream_open - makes this guest a consumer of a stream
 * @vd: the device
 * @uarg: struct virtio_dmabuf_ioc_stream_open
 *
 * Return: 0, or an error as of vdmabuf_call().
 */
int vdmabuf_ioc_stream_open(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_ioc_stream_open arg;
	struct virtio_dmabuf_stream_open_resp reply;
	struct vdmabuf_stream *stream;
	struct file *file;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	err = vdmabuf_stream_open_check(vd, &arg);
	if (err)
		return err;
	stream = vdmabuf_stream_new(vd);
	if (IS_ERR(stream))
		return PTR_ERR(stream);
	stream->fences = arg.options & VIRTIO_DMABUF_STREAM_FENCES;
	err = vdmabuf_host_stream_open(stream, &arg, &reply);
	if (err) {
		vdmabuf_stream_end(stream);
		return err;
	}
	arg.hold_ms = le32_to_cpu(reply.hold_ms);
	arg.buffers = le32_to_cpu(reply.buffers);
	arg.max_held = le32_to_cpu(reply.max_held);
	arg.id = le64_to_cpu(reply.id);
	vdmabuf_format_from_wire(&arg.format, &reply.format);
	arg.fd = vdmabuf_stream_file(stream, le64_to_cpu(reply.stream), &vdmabuf_consumer_fops,
				     arg.flags, &file);
	if (arg.fd < 0)
		return arg.fd;
	return vdmabuf_stream_install(file, arg.fd, uarg, &arg, sizeof(arg));
}
