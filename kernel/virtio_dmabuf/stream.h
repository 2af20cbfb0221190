/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * virtio dmabuf guest driver: ends of streams.
 */
#ifndef _VDMABUF_STREAM_H
#define _VDMABUF_STREAM_H

#include "vdmabuf.h"

struct file;
struct file_operations;
struct inode;

/* Most open ends of streams, as on the host */
#define VDMABUF_STREAMS		64

/**
 * struct vdmabuf_stream_buffer - one of a stream's buffers, as its consumer has it
 * @dmabuf: the dma-buf, with a reference; NULL: nobody has asked for it yet
 * @enforcement: who makes it read-only
 */
struct vdmabuf_stream_buffer {
	struct dma_buf *dmabuf;
	u32 enforcement;
};

/**
 * struct vdmabuf_stream - an end of a stream, and its file
 * @node: in vdmabuf_device.streams; under client_lock, as are @number and @returned
 * @vd: the device, with a reference
 * @session: session of @number
 * @number: what the host calls it; 0 until it has said so
 * @wait: readers, pollers, and who waits for a free buffer
 * @look: the host should be asked: for a frame, or for a free buffer. Taken back
 *	  before it is asked: an event that comes meanwhile stays
 * @early: events came while @number wasn't known, maybe for this end
 * @withdrawn: the stream has ended; frames can be left
 * @returned: buffers that a producer has got back without being told, by index
 * @lock: one at a time asks for a frame, or for a free buffer; and for @buffers
 * @fences: a frame's fence is brought to its buffer
 * @buffers: a consumer's, by index
 * @close: the request that gives the end back
 * @close_work: sends it, if there was no room for it at once
 */
struct vdmabuf_stream {
	struct list_head node;
	struct vdmabuf_device *vd;
	u64 session;
	u64 number;
	wait_queue_head_t wait;
	bool look;
	bool early;
	bool withdrawn;
	u64 returned;
	struct mutex lock;
	bool fences;
	struct vdmabuf_stream_buffer buffers[VIRTIO_DMABUF_STREAM_BUFFERS];
	struct vdmabuf_request *close;
	struct work_struct close_work;
};

/* stream.c */
struct vdmabuf_stream *vdmabuf_stream_new(struct vdmabuf_device *vd);
void vdmabuf_stream_end(struct vdmabuf_stream *stream);
int vdmabuf_stream_file(struct vdmabuf_stream *stream, u64 number,
			const struct file_operations *fops, u32 flags, struct file **file);
int vdmabuf_stream_install(struct file *file, int fd, void __user *uarg, const void *arg,
			   size_t size);
int vdmabuf_stream_close_file(struct inode *inode, struct file *file);
int vdmabuf_stream_call(struct vdmabuf_stream *stream, u32 op, const void *body,
			size_t body_len, void *reply, size_t reply_len);
bool vdmabuf_stream_live(struct vdmabuf_stream *stream);
void vdmabuf_stream_event(struct vdmabuf_device *vd, u32 kind, u64 number);
void vdmabuf_streams_wake(struct vdmabuf_device *vd);
void vdmabuf_streams_stop(struct vdmabuf_device *vd);
void vdmabuf_stream_undo(struct vdmabuf_device *vd, const struct vdmabuf_request *req);
void vdmabuf_streams_init(struct vdmabuf_device *vd);

/* stream_consumer.c */
int vdmabuf_ioc_stream_open(struct vdmabuf_device *vd, void __user *uarg);

/* stream_producer.c */
int vdmabuf_ioc_stream_create(struct vdmabuf_device *vd, void __user *uarg);
void vdmabuf_stream_returned(struct vdmabuf_stream *stream, u32 index);

#endif /* _VDMABUF_STREAM_H */
