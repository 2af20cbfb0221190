// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: ends of streams.
 *
 * An end is a file, made by an ioctl of /dev/virtio-dmabufN and closed with its last
 * user. It belongs to one session; when that is over everything fails with EIO, and
 * whoever waits is woken. The file keeps the module and the structures, not the
 * device.
 *
 * The host tells once that there is something, and then waits until it is asked. So
 * an event leaves a mark, which is taken away before the host is asked, and put back
 * when there is more, or when it isn't known what the host has done.
 */
#include <linux/anon_inodes.h>
#include <linux/dma-buf.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "stream.h"

/* Nobody waits for the answer to a STREAM_CLOSE. */
static void vdmabuf_stream_closed(struct vdmabuf_request *req)
{
}

static struct virtio_dmabuf_stream *vdmabuf_close_body(struct vdmabuf_stream *stream)
{
	return stream->close->out + sizeof(struct virtio_dmabuf_req_hdr);
}

/* The end was closed on the host, or goes with the session. */
static void vdmabuf_stream_free(struct vdmabuf_stream *stream)
{
	struct vdmabuf_device *vd = stream->vd;
	unsigned int i;

	spin_lock_irq(&vd->client_lock);
	list_del(&stream->node);
	vd->stream_count--;
	spin_unlock_irq(&vd->client_lock);
	for (i = 0; i < ARRAY_SIZE(stream->buffers); i++)
		if (stream->buffers[i].dmabuf)
			dma_buf_put(stream->buffers[i].dmabuf);
	vdmabuf_request_put(stream->close);
	kfree(stream);
	put_device(&vd->dev);
}

static void vdmabuf_stream_close_work(struct work_struct *work)
{
	struct vdmabuf_stream *stream = container_of(work, struct vdmabuf_stream, close_work);

	/* If the host can't be told, the end goes with the session. */
	vdmabuf_submit_wait(stream->vd, stream->close, vdmabuf_request_timeout(), false);
	vdmabuf_stream_free(stream);
}

/**
 * vdmabuf_stream_end - gives an end back that has no file, or has none any more
 * @stream: the end, which nobody uses
 *
 * The host hears of it before it hears of an end that is made after this. It isn't
 * waited for.
 */
void vdmabuf_stream_end(struct vdmabuf_stream *stream)
{
	if (stream->number && vdmabuf_submit(stream->vd, stream->close) == -ENOSPC)
		queue_work(vdmabuf_wq, &stream->close_work);
	else
		vdmabuf_stream_free(stream);
}

static bool vdmabuf_stream_register(struct vdmabuf_stream *stream)
{
	struct vdmabuf_device *vd = stream->vd;
	bool room;

	spin_lock_irq(&vd->client_lock);
	room = vd->stream_count < VDMABUF_STREAMS;
	if (room) {
		list_add_tail(&stream->node, &vd->streams);
		vd->stream_count++;
	}
	spin_unlock_irq(&vd->client_lock);
	return room;
}

/**
 * vdmabuf_stream_new - an end that the host doesn't know yet, for the session that is open
 * @vd: the device
 *
 * It can get events from now on: they can come before its number does.
 *
 * Return: the end, for vdmabuf_stream_end() or vdmabuf_stream_file(); or an error pointer.
 */
struct vdmabuf_stream *vdmabuf_stream_new(struct vdmabuf_device *vd)
{
	struct vdmabuf_stream *stream = kzalloc(sizeof(*stream), GFP_KERNEL);
	struct virtio_dmabuf_stream body = { };
	struct vdmabuf_call call = {
		.session = vdmabuf_session(vd),
		.op = VIRTIO_DMABUF_STREAM_CLOSE,
		.body = &body,
		.body_len = sizeof(body),
	};

	if (!stream)
		return ERR_PTR(-ENOMEM);
	stream->close = vdmabuf_request_new(&call, vdmabuf_stream_closed);
	if (!stream->close) {
		kfree(stream);
		return ERR_PTR(-ENOMEM);
	}
	stream->vd = vd;
	stream->session = call.session;
	init_waitqueue_head(&stream->wait);
	mutex_init(&stream->lock);
	INIT_WORK(&stream->close_work, vdmabuf_stream_close_work);
	if (!vdmabuf_stream_register(stream)) {
		vdmabuf_request_put(stream->close);
		kfree(stream);
		return ERR_PTR(-EMFILE);
	}
	get_device(&vd->dev);
	return stream;
}

/* From now on events are told apart by the number. */
static void vdmabuf_stream_number(struct vdmabuf_stream *stream, u64 number)
{
	vdmabuf_close_body(stream)->stream = cpu_to_le64(number);
	spin_lock_irq(&stream->vd->client_lock);
	stream->number = number;
	spin_unlock_irq(&stream->vd->client_lock);
}

/* As long as the session lasts. */
static void vdmabuf_pulse_start(struct vdmabuf_device *vd)
{
	spin_lock_irq(&vd->vq_lock);
	if (vd->live && !vd->closing)
		queue_delayed_work(vdmabuf_wq, &vd->pulse, vdmabuf_request_timeout());
	spin_unlock_irq(&vd->vq_lock);
}

/**
 * vdmabuf_stream_file - makes the file of an end
 * @stream: the end; it belongs to the file, also after an error
 * @number: its number on the host
 * @fops: of its kind
 * @flags: O_CLOEXEC, O_NONBLOCK
 * @file: set to the file, for fd_install()
 *
 * Return: an fd, not installed yet; or an error.
 */
int vdmabuf_stream_file(struct vdmabuf_stream *stream, u64 number,
			const struct file_operations *fops, u32 flags, struct file **file)
{
	int fd = number ? get_unused_fd_flags(flags & O_CLOEXEC) : -EIO;

	vdmabuf_stream_number(stream, number);
	if (fd < 0)
		goto end;
	*file = anon_inode_getfile("[virtio-dmabuf-stream]", fops, stream,
				   O_RDWR | (flags & O_NONBLOCK));
	if (!IS_ERR(*file)) {
		stream_open(file_inode(*file), *file);
		vdmabuf_pulse_start(stream->vd);
		return fd;
	}
	put_unused_fd(fd);
	fd = PTR_ERR(*file);
end:
	vdmabuf_stream_end(stream);
	return fd;
}

/**
 * vdmabuf_stream_install - gives a program the fd of vdmabuf_stream_file()
 * @file: the file
 * @fd: the fd
 * @uarg: where to the ioctl's argument, which tells it, goes
 * @arg: the argument
 * @size: bytes of it
 *
 * Return: 0; or -EFAULT, and neither fd nor file is there any more.
 */
int vdmabuf_stream_install(struct file *file, int fd, void __user *uarg, const void *arg,
			   size_t size)
{
	if (copy_to_user(uarg, arg, size)) {
		put_unused_fd(fd);
		fput(file);
		return -EFAULT;
	}
	fd_install(fd, file);
	return 0;
}

/**
 * vdmabuf_stream_close_file - release() of both kinds of file
 * @inode: not used
 * @file: the file
 *
 * Return: 0.
 */
int vdmabuf_stream_close_file(struct inode *inode, struct file *file)
{
	vdmabuf_stream_end(file->private_data);
	return 0;
}

/**
 * vdmabuf_stream_call - asks the host something about an end
 * @stream: the end
 * @op: request code
 * @body: the request
 * @body_len: bytes of @body
 * @reply: where the reply goes, or NULL
 * @reply_len: bytes of the reply
 *
 * Return: as vdmabuf_call().
 */
int vdmabuf_stream_call(struct vdmabuf_stream *stream, u32 op, const void *body,
			size_t body_len, void *reply, size_t reply_len)
{
	struct vdmabuf_call call = {
		.session = stream->session,
		.op = op,
		.body = body,
		.body_len = body_len,
		.reply = reply,
		.reply_min = reply_len,
		.reply_max = reply_len,
	};

	return vdmabuf_call(stream->vd, &call);
}

/**
 * vdmabuf_stream_live - whether an end can still be used
 * @stream: the end
 *
 * Return: true if so; false also while the device has stopped to answer.
 */
bool vdmabuf_stream_live(struct vdmabuf_stream *stream)
{
	struct vdmabuf_device *vd = stream->vd;
	bool live;

	spin_lock_irq(&vd->vq_lock);
	live = vd->live && !vd->closing && !vd->stalled && vd->session == stream->session;
	spin_unlock_irq(&vd->vq_lock);
	return live;
}

/* The caller holds client_lock. */
static struct vdmabuf_stream *vdmabuf_stream_find(struct vdmabuf_device *vd, u64 session,
						  u64 number)
{
	struct vdmabuf_stream *stream;

	list_for_each_entry(stream, &vd->streams, node)
		if (stream->session == session && stream->number == number)
			return stream;
	return NULL;
}

/* It may be for an end whose number is on its way. The caller holds client_lock. */
static void vdmabuf_stream_event_early(struct vdmabuf_device *vd)
{
	struct vdmabuf_stream *stream;

	list_for_each_entry(stream, &vd->streams, node)
		if (stream->session == vd->session && !stream->number)
			WRITE_ONCE(stream->early, true);
}

/**
 * vdmabuf_stream_event - there is news for an end
 * @vd: the device
 * @kind: VIRTIO_DMABUF_EVENT_FRAME, _STREAM_WITHDRAWN or _STREAM_FREE
 * @number: the end
 *
 * Context: the caller holds vq_lock.
 */
void vdmabuf_stream_event(struct vdmabuf_device *vd, u32 kind, u64 number)
{
	struct vdmabuf_stream *stream;

	spin_lock(&vd->client_lock);
	stream = number ? vdmabuf_stream_find(vd, vd->session, number) : NULL;
	if (stream) {
		if (kind == VIRTIO_DMABUF_EVENT_STREAM_WITHDRAWN)
			WRITE_ONCE(stream->withdrawn, true);
		else
			WRITE_ONCE(stream->look, true);
		wake_up_all(&stream->wait);
	} else {
		vdmabuf_stream_event_early(vd);
	}
	spin_unlock(&vd->client_lock);
}

/**
 * vdmabuf_streams_wake - lets those who wait for streams see that the session ended
 * @vd: the device
 */
void vdmabuf_streams_wake(struct vdmabuf_device *vd)
{
	struct vdmabuf_stream *stream;

	spin_lock_irq(&vd->client_lock);
	list_for_each_entry(stream, &vd->streams, node)
		wake_up_all(&stream->wait);
	spin_unlock_irq(&vd->client_lock);
}

static void vdmabuf_undo_end(struct vdmabuf_device *vd, u64 session, __le64 number)
{
	struct virtio_dmabuf_stream body = { .stream = number };
	struct vdmabuf_call call = {
		.session = session,
		.op = VIRTIO_DMABUF_STREAM_CLOSE,
		.body = &body,
		.body_len = sizeof(body),
	};

	vdmabuf_call(vd, &call);
}

static void vdmabuf_undo_acquire(struct vdmabuf_device *vd, u64 session, __le64 number,
				 __le64 sequence)
{
	struct virtio_dmabuf_stream_release body = { .stream = number, .sequence = sequence };
	struct vdmabuf_call call = {
		.session = session,
		.op = VIRTIO_DMABUF_STREAM_RELEASE,
		.body = &body,
		.body_len = sizeof(body),
	};

	vdmabuf_call(vd, &call);
}

/* The next RECLAIM gets it. */
static void vdmabuf_undo_reclaim(struct vdmabuf_device *vd, u64 session, u64 number, u32 index)
{
	struct vdmabuf_stream *stream;

	spin_lock_irq(&vd->client_lock);
	stream = vdmabuf_stream_find(vd, session, number);
	if (stream)
		vdmabuf_stream_returned(stream, index);
	spin_unlock_irq(&vd->client_lock);
}

/**
 * vdmabuf_stream_undo - undoes what a request did that nobody waits for any more
 * @vd: the device
 * @req: the request, answered
 */
void vdmabuf_stream_undo(struct vdmabuf_device *vd, const struct vdmabuf_request *req)
{
	const struct virtio_dmabuf_stream *asked = req->out + sizeof(struct virtio_dmabuf_req_hdr);
	union {
		struct virtio_dmabuf_stream_open_resp open;
		struct virtio_dmabuf_stream_create_resp create;
		struct virtio_dmabuf_frame_resp frame;
		struct virtio_dmabuf_stream_index_resp index;
	} reply;
	size_t len;

	switch (req->op) {
	case VIRTIO_DMABUF_STREAM_OPEN:
		if (!vdmabuf_parse(req, &reply, sizeof(reply.open), sizeof(reply.open), &len))
			vdmabuf_undo_end(vd, req->session, reply.open.stream);
		break;
	case VIRTIO_DMABUF_STREAM_CREATE:
		if (!vdmabuf_parse(req, &reply, sizeof(reply.create), sizeof(reply.create), &len))
			vdmabuf_undo_end(vd, req->session, reply.create.stream);
		break;
	case VIRTIO_DMABUF_STREAM_ACQUIRE:
		if (!vdmabuf_parse(req, &reply, sizeof(reply.frame), sizeof(reply.frame), &len))
			vdmabuf_undo_acquire(vd, req->session, asked->stream, reply.frame.sequence);
		break;
	case VIRTIO_DMABUF_STREAM_RECLAIM:
		if (!vdmabuf_parse(req, &reply, sizeof(reply.index), sizeof(reply.index), &len))
			vdmabuf_undo_reclaim(vd, req->session, le64_to_cpu(asked->stream),
					     le32_to_cpu(reply.index.index));
		break;
	}
}

/*
 * Asks for something now and then while there are streams: who waits for a frame sends
 * nothing, and would not notice that the host's daemon is gone. If nothing is
 * answered, they are woken by vdmabuf_call().
 */
static void vdmabuf_pulse(struct work_struct *work)
{
	struct vdmabuf_device *vd = container_of(to_delayed_work(work), struct vdmabuf_device,
						 pulse);
	struct virtio_dmabuf_info_resp reply;
	struct vdmabuf_call call = {
		.session = vdmabuf_session(vd),
		.op = VIRTIO_DMABUF_GET_INFO,
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};

	vdmabuf_call(vd, &call);
	if (READ_ONCE(vd->stream_count))
		vdmabuf_pulse_start(vd);
}

/**
 * vdmabuf_streams_stop - wakes those who wait for streams, when the session is closing
 * @vd: the device, after vdmabuf_control_close()
 */
void vdmabuf_streams_stop(struct vdmabuf_device *vd)
{
	vdmabuf_streams_wake(vd);
	cancel_delayed_work_sync(&vd->pulse);
}

/**
 * vdmabuf_streams_init - prepares the fields that this file uses
 * @vd: a new device
 */
void vdmabuf_streams_init(struct vdmabuf_device *vd)
{
	INIT_LIST_HEAD(&vd->streams);
	INIT_DELAYED_WORK(&vd->pulse, vdmabuf_pulse);
}
