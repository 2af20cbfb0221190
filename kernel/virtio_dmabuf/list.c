// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: the ioctls that list the host's buffers and streams,
 * a page at a time.
 */
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "vdmabuf.h"

/* Entries in one page: the reply stays below 4 KiB */
#define VDMABUF_LIST_MAX	25
#define VDMABUF_STATS_MAX	35

/**
 * struct vdmabuf_list - a kind of list
 * @op: the request for a page of it
 * @entry_size: bytes of an entry on the wire
 * @out_size: bytes of what programs get for it
 * @to_ioc: makes the one of the other
 */
struct vdmabuf_list {
	u32 op;
	size_t entry_size;
	size_t out_size;
	void (*to_ioc)(void *out, const void *in);
};

/* What programs get for an entry */
union vdmabuf_list_out {
	struct virtio_dmabuf_ioc_buffer buffer;
	struct virtio_dmabuf_ioc_stream_info stream;
};

/**
 * vdmabuf_format_from_wire - a picture's layout as programs see it
 * @out: set to it
 * @in: from the host
 */
void vdmabuf_format_from_wire(struct virtio_dmabuf_ioc_format *out,
			      const struct virtio_dmabuf_format *in)
{
	unsigned int i;

	out->fourcc = le32_to_cpu(in->fourcc);
	out->width = le32_to_cpu(in->width);
	out->height = le32_to_cpu(in->height);
	out->num_planes = le32_to_cpu(in->num_planes);
	out->modifier = le64_to_cpu(in->modifier);
	for (i = 0; i < ARRAY_SIZE(out->offset); i++) {
		out->offset[i] = le32_to_cpu(in->offset[i]);
		out->stride[i] = le32_to_cpu(in->stride[i]);
	}
}

/**
 * vdmabuf_format_to_wire - the opposite of vdmabuf_format_from_wire()
 * @out: all zero; set to it
 * @in: from a program; whether it makes sense is for the host to say
 */
void vdmabuf_format_to_wire(struct virtio_dmabuf_format *out,
			    const struct virtio_dmabuf_ioc_format *in)
{
	unsigned int i;

	out->fourcc = cpu_to_le32(in->fourcc);
	out->width = cpu_to_le32(in->width);
	out->height = cpu_to_le32(in->height);
	out->num_planes = cpu_to_le32(in->num_planes);
	out->modifier = cpu_to_le64(in->modifier);
	for (i = 0; i < ARRAY_SIZE(in->offset); i++) {
		out->offset[i] = cpu_to_le32(in->offset[i]);
		out->stride[i] = cpu_to_le32(in->stride[i]);
	}
}

static void vdmabuf_buffer_to_ioc(void *to, const void *from)
{
	const struct virtio_dmabuf_buffer *in = from;
	struct virtio_dmabuf_ioc_buffer *out = to;

	out->id = le64_to_cpu(in->id);
	out->size = le64_to_cpu(in->size);
	out->access = le32_to_cpu(in->access);
	out->enforcement = le32_to_cpu(in->enforcement);
	out->heap = le32_to_cpu(in->heap);
	out->flags = le32_to_cpu(in->flags);
	vdmabuf_format_from_wire(&out->format, &in->format);
	memcpy(out->name, in->name, sizeof(out->name));
}

static void vdmabuf_stream_to_ioc(void *to, const void *from)
{
	const struct virtio_dmabuf_stream_info *in = from;
	struct virtio_dmabuf_ioc_stream_info *out = to;

	out->id = le64_to_cpu(in->id);
	out->produced = le64_to_cpu(in->produced);
	out->buffers = le32_to_cpu(in->buffers);
	out->consumers = le32_to_cpu(in->consumers);
	vdmabuf_format_from_wire(&out->format, &in->format);
	memcpy(out->name, in->name, sizeof(out->name));
}

static const struct vdmabuf_list vdmabuf_buffer_list = {
	.op = VIRTIO_DMABUF_LIST,
	.entry_size = sizeof(struct virtio_dmabuf_buffer),
	.out_size = sizeof(struct virtio_dmabuf_ioc_buffer),
	.to_ioc = vdmabuf_buffer_to_ioc,
};

static const struct vdmabuf_list vdmabuf_stream_list = {
	.op = VIRTIO_DMABUF_STREAM_LIST,
	.entry_size = sizeof(struct virtio_dmabuf_stream_info),
	.out_size = sizeof(struct virtio_dmabuf_ioc_stream_info),
	.to_ioc = vdmabuf_stream_to_ioc,
};

/* One page of a list from the host. -EIO if it makes no sense. */
static int vdmabuf_list_page(struct vdmabuf_device *vd, const struct vdmabuf_list *list,
			     u64 cursor, u32 max, struct virtio_dmabuf_list_resp *reply)
{
	struct virtio_dmabuf_list body = {
		.cursor = cpu_to_le64(cursor),
		.max = cpu_to_le32(max),
	};
	struct vdmabuf_call call = {
		.session = vdmabuf_session(vd),
		.op = list->op,
		.body = &body,
		.body_len = sizeof(body),
		.reply = reply,
		.reply_min = sizeof(*reply),
		.reply_max = sizeof(*reply) + max * list->entry_size,
	};
	u32 count;
	u64 next;
	int err = vdmabuf_call(vd, &call);

	if (err)
		return err;
	count = le32_to_cpu(reply->count);
	next = le64_to_cpu(reply->next);
	/* A cursor that doesn't grow would never end. */
	if (count > max || (next && (!count || next <= cursor)) ||
	    call.reply_len != sizeof(*reply) + count * list->entry_size) {
		dev_warn_ratelimited(&vd->dev, "malformed list\n");
		return -EIO;
	}
	return 0;
}

static int vdmabuf_list_copy(const struct vdmabuf_list *list, const void *entries, u32 count,
			     void __user *uout)
{
	union vdmabuf_list_out out;
	u32 i;

	for (i = 0; i < count; i++) {
		memset(&out, 0, sizeof(out));
		list->to_ioc(&out, entries + i * list->entry_size);
		if (copy_to_user(uout + i * list->out_size, &out, list->out_size))
			return -EFAULT;
	}
	return 0;
}

static int vdmabuf_ioc_page(struct vdmabuf_device *vd, const struct vdmabuf_list *list,
			    void __user *uarg)
{
	struct virtio_dmabuf_list_resp *reply;
	struct virtio_dmabuf_ioc_list arg;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (!arg.count || arg.reserved)
		return -EINVAL;
	arg.count = min(arg.count, VDMABUF_LIST_MAX);
	reply = kzalloc(sizeof(*reply) + arg.count * list->entry_size, GFP_KERNEL);
	if (!reply)
		return -ENOMEM;
	err = vdmabuf_list_page(vd, list, arg.cursor, arg.count, reply);
	if (err)
		goto free;
	arg.count = le32_to_cpu(reply->count);
	arg.next = le64_to_cpu(reply->next);
	err = vdmabuf_list_copy(list, reply + 1, arg.count, u64_to_user_ptr(arg.entries));
	if (!err && copy_to_user(uarg, &arg, sizeof(arg)))
		err = -EFAULT;
free:
	kfree(reply);
	return err;
}

/**
 * vdmabuf_ioc_list - a page of the buffers that this guest may open
 * @vd: the device
 * @uarg: struct virtio_dmabuf_ioc_list
 *
 * Return: 0, or an error as of vdmabuf_call().
 */
int vdmabuf_ioc_list(struct vdmabuf_device *vd, void __user *uarg)
{
	return vdmabuf_ioc_page(vd, &vdmabuf_buffer_list, uarg);
}

/**
 * vdmabuf_ioc_stream_list - a page of the streams that this guest may consume
 * @vd: the device
 * @uarg: struct virtio_dmabuf_ioc_list
 *
 * Return: 0, or an error as of vdmabuf_call().
 */
int vdmabuf_ioc_stream_list(struct vdmabuf_device *vd, void __user *uarg)
{
	return vdmabuf_ioc_page(vd, &vdmabuf_stream_list, uarg);
}

struct vdmabuf_stats_reply {
	struct virtio_dmabuf_stream_stats_resp head;
	struct virtio_dmabuf_consumer consumers[VDMABUF_STATS_MAX];
};

/* A stream's counters and one page of its consumers, from the host. */
static int vdmabuf_stats_page(struct vdmabuf_device *vd,
			      const struct virtio_dmabuf_ioc_stream_stats *arg,
			      struct vdmabuf_stats_reply *reply)
{
	struct virtio_dmabuf_stream_stats body = { .cursor = cpu_to_le32(arg->cursor) };
	struct vdmabuf_call call = {
		.session = vdmabuf_session(vd),
		.op = VIRTIO_DMABUF_STREAM_STATS,
		.body = &body,
		.body_len = sizeof(body),
		.reply = reply,
		.reply_min = sizeof(reply->head),
		.reply_max = sizeof(reply->head) + arg->count * sizeof(reply->consumers[0]),
	};
	u32 count, next;
	int err;

	memcpy(body.name, arg->name, sizeof(body.name));
	err = vdmabuf_call(vd, &call);
	if (err)
		return err;
	count = le32_to_cpu(reply->head.count);
	next = le32_to_cpu(reply->head.next);
	if (count > arg->count || (next && (!count || next <= arg->cursor)) ||
	    call.reply_len != sizeof(reply->head) + count * sizeof(reply->consumers[0])) {
		dev_warn_ratelimited(&vd->dev, "malformed statistics\n");
		return -EIO;
	}
	return 0;
}

static int vdmabuf_consumers_copy(const struct vdmabuf_stats_reply *reply, void __user *uout)
{
	u32 i, count = le32_to_cpu(reply->head.count);

	for (i = 0; i < count; i++) {
		const struct virtio_dmabuf_consumer *in = &reply->consumers[i];
		struct virtio_dmabuf_ioc_consumer out = {
			.mode = le32_to_cpu(in->mode),
			.depth = le32_to_cpu(in->depth),
			.joined = le64_to_cpu(in->joined),
			.delivered = le64_to_cpu(in->delivered),
			.skipped = le64_to_cpu(in->skipped),
			.expired = le64_to_cpu(in->expired),
			.ready = le32_to_cpu(in->ready),
			.held = le32_to_cpu(in->held),
		};

		memcpy(out.peer, in->peer, sizeof(out.peer));
		if (copy_to_user(uout + i * sizeof(out), &out, sizeof(out)))
			return -EFAULT;
	}
	return 0;
}

/**
 * vdmabuf_ioc_stream_stats - a stream's counters, and a page of its consumers'
 * @vd: the device
 * @uarg: struct virtio_dmabuf_ioc_stream_stats
 *
 * Return: 0, or an error as of vdmabuf_call().
 */
int vdmabuf_ioc_stream_stats(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_ioc_stream_stats arg;
	struct vdmabuf_stats_reply *reply;
	int err;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	if (!arg.count || arg.reserved || !vdmabuf_name_ok(arg.name))
		return -EINVAL;
	arg.count = min(arg.count, VDMABUF_STATS_MAX);
	reply = kzalloc(sizeof(*reply), GFP_KERNEL);
	if (!reply)
		return -ENOMEM;
	err = vdmabuf_stats_page(vd, &arg, reply);
	if (err)
		goto free;
	arg.produced = le64_to_cpu(reply->head.produced);
	arg.buffers = le32_to_cpu(reply->head.buffers);
	arg.with_producer = le32_to_cpu(reply->head.with_producer);
	arg.free = le32_to_cpu(reply->head.free);
	arg.consumers = le32_to_cpu(reply->head.consumers);
	arg.count = le32_to_cpu(reply->head.count);
	arg.next = le32_to_cpu(reply->head.next);
	err = vdmabuf_consumers_copy(reply, u64_to_user_ptr(arg.entries));
	if (!err && copy_to_user(uarg, &arg, sizeof(arg)))
		err = -EFAULT;
free:
	kfree(reply);
	return err;
}
