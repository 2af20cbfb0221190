/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * virtio dmabuf guest driver: what its files share.
 *
 * main.c     life of a device: probe, remove, suspend, reset
 * queue.c    requests and replies on the control and fence queue
 * control.c  requests that somebody waits for
 * event.c    the event queue
 * window.c   windows: guest-physical ranges where aliases appear
 * session.c  sessions: begin, use, end
 * open.c     OPEN and MAP: from a name to a mapped alias
 * buffer.c   aliases as dma-bufs
 * revoke.c   buffers that the host takes away
 * heap.c     the host's heaps as dma-heaps; their names are kept by virtio_dmabuf_heaps.ko
 * sync.c     CPU access to them, brought to the host
 * fence.c    fences of the host, brought to them
 * fence_ioctl.c the ioctls for that
 * list.c     the ioctls that list the host's buffers and streams
 * stream.c   ends of streams: begin, events, end; see stream.h
 * stream_consumer.c a consumer's file
 * stream_producer.c a producer's file
 * publish.c  the ioctls by which a guest shares what it has allocated
 * chardev.c  /dev/virtio-dmabufN
 *
 * Whatever the device says is checked before it is used: the host may lie.
 *
 * Locks, outer to inner: stream.lock, vdmabuf_lock, buffer.lock, dma_resv locks.
 * vdmabuf_device.vq_lock and in it vdmabuf_device.client_lock are the innermost, and
 * are taken from interrupts: fences are signalled, and requests end, after vq_lock was
 * given back. No lock but stream.lock is held while the host is asked.
 */
#ifndef _VDMABUF_H
#define _VDMABUF_H

#include <linux/atomic.h>
#include <linux/cdev.h>
#include <linux/completion.h>
#include <linux/device.h>
#include <linux/dma-direction.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <linux/types.h>
#include <linux/uuid.h>
#include <linux/virtio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "uapi/virtio_dmabuf.h"

struct dma_buf;
struct vdmabuf_heaps;
struct dma_fence;
struct vdmabuf_fence;
struct vdmabuf_request;

/* Event buffers that the device can fill before the driver looks */
#define VDMABUF_EVENTS		32

/**
 * struct vdmabuf_window - a guest-physical range where aliases appear
 * @ref: one for its owner, one per buffer in it
 * @node: in the list of all windows
 * @start: first guest-physical address
 * @size: bytes
 * @uuid: which static window it is; nil for a dynamic window
 * @present: the device behind it is bound; under vdmabuf_lock
 * @pgmap: its struct pages
 * @vaddr: where the kernel sees it, or NULL if it could have no struct pages
 */
struct vdmabuf_window {
	struct kref ref;
	struct list_head node;
	phys_addr_t start;
	u64 size;
	uuid_t uuid;
	bool present;
	struct dev_pagemap pgmap;
	void *vaddr;
};

/**
 * struct vdmabuf_queue - a queue of requests; all under vdmabuf_device.vq_lock
 * @vq: the virtqueue, NULL between sessions
 * @pending: requests that have not ended
 * @inflight: requests that the device holds
 * @max_inflight: most of those, apart from @slow ones
 * @slow: those that wait for fences of the host
 * @max_slow: most of those
 */
struct vdmabuf_queue {
	struct virtqueue *vq;
	struct list_head pending;
	u32 inflight;
	u32 max_inflight;
	u32 slow;
	u32 max_slow;
};

/**
 * struct vdmabuf_device - one virtio device
 * @vdev: the virtio device; not to be used once @live is false
 * @dev: the character device; its references keep this structure
 * @cdev: /dev/virtio-dmabufN
 * @window: the dynamic window, or NULL; under vdmabuf_lock
 * @claimed: the dynamic window's address range, when it was claimed
 * @uuid: uuid of the first static window, or nil
 * @has_static: VIRTIO_DMABUF_F_STATIC_WINDOW was negotiated
 * @heaps: the host's heaps, or NULL; set by probe
 * @has_fence: VIRTIO_DMABUF_F_FENCE was negotiated
 * @has_stream: VIRTIO_DMABUF_F_STREAM was negotiated
 * @max_inflight: most requests that the device takes at once
 * @vq_lock: for all queues, and the fields that follow
 * @control: the control queue
 * @fence: the fence queue
 * @event: the event queue
 * @session: counts resets; handles and mappings are of one session
 * @live: requests can be sent
 * @closing: ... but only to give back what the session holds
 * @stalled: a request met its deadline and nothing was answered since
 * @opening: callers between vdmabuf_session_enter() and vdmabuf_session_leave()
 * @tag: last tag used
 * @orphans: answered requests that nobody waited for any more
 * @space: woken when the device has given a request back, and when @opening falls
 * @deadline: ends waits that the device doesn't answer
 * @orphan_work: undoes what @orphans did
 * @config_work: looks at the device's status after a configuration change
 * @pulse: asks the device now and then whether it is there, while there are streams
 * @event_bufs: VDMABUF_EVENTS buffers for the event queue
 * @stream_events: events of this session that were for ends of streams
 * @revocations: buffers that the host will take away; under vq_lock
 * @num_revocations: how many
 * @revoke_work: takes them away here
 * @client_lock: for @clients and what is queued in them, and for the fields that follow
 * @clients: open files of the character device
 * @streams: ends of streams
 * @stream_count: how many
 */
struct vdmabuf_device {
	struct virtio_device *vdev;
	struct device dev;
	struct cdev cdev;
	struct vdmabuf_window *window;
	struct resource *claimed;
	uuid_t uuid;
	bool has_static;
	struct vdmabuf_heaps *heaps;
	bool has_fence;
	bool has_stream;
	u32 max_inflight;

	spinlock_t vq_lock;
	struct vdmabuf_queue control;
	struct vdmabuf_queue fence;
	struct virtqueue *event;
	u64 session;
	bool live;
	bool closing;
	bool stalled;
	u32 opening;
	u64 tag;
	struct list_head orphans;
	wait_queue_head_t space;
	struct timer_list deadline;
	struct work_struct orphan_work;
	struct work_struct config_work;
	struct delayed_work pulse;
	struct virtio_dmabuf_event *event_bufs;
	u64 stream_events;
	struct list_head revocations;
	u32 num_revocations;
	struct delayed_work revoke_work;

	spinlock_t client_lock;
	struct list_head clients;
	struct list_head streams;
	u32 stream_count;
};

/* Bits of vdmabuf_buffer.held */
#define VDMABUF_HELD_MAPPING	0
#define VDMABUF_HELD_HANDLE	1

/**
 * struct vdmabuf_buffer - a dma-buf of ours
 * @node: in the list of all buffers; under vdmabuf_lock
 * @vd: its device, with a reference
 * @win: its window, with a reference
 * @id: the buffer's number on the host
 * @session: session of @handle and @mapping
 * @handle: the alias on the host
 * @mapping: its mapping on the host
 * @held: VDMABUF_HELD_* bits: what has to be given back; whoever clears one does that
 * @offset: where it starts in the window
 * @size: bytes
 * @writable: the alias is read-write
 * @caching: VIRTIO_DMABUF_CACHE_*
 * @fd_flags: flags of the dma-buf's file
 * @exporter: its exporter's name, which stays
 * @own: this guest has made the buffer: it keeps it when it is taken from others
 * @lock: guards @revoked; held for reading while page table entries are made
 * @revoked: its memory must not be touched any more
 * @users: devices and kernel mappings of this guest that use it all the same
 * @dmabuf: the dma-buf
 * @release: gives mapping and handle back
 */
struct vdmabuf_buffer {
	struct list_head node;
	struct vdmabuf_device *vd;
	struct vdmabuf_window *win;
	u64 id;
	u64 session;
	u64 handle;
	u64 mapping;
	unsigned long held;
	u64 offset;
	u64 size;
	bool writable;
	u32 caching;
	u32 fd_flags;
	const char *exporter;
	bool own;
	struct rw_semaphore lock;
	bool revoked;
	atomic_t users;
	struct dma_buf *dmabuf;
	struct work_struct release;
};

/**
 * struct vdmabuf_want - what a buffer that the host has opened or allocated must be
 * @size: bytes at least
 * @access: VIRTIO_DMABUF_RDONLY or VIRTIO_DMABUF_RDWR
 * @fd_flags: flags for the dma-buf's file
 * @exporter: name for the dma-buf's exporter, which must stay
 * @own: it was allocated
 */
struct vdmabuf_want {
	u64 size;
	u32 access;
	u32 fd_flags;
	const char *exporter;
	bool own;
};

/**
 * struct vdmabuf_call - one request and where its reply goes
 * @session: the session it belongs to
 * @op: request code
 * @body: what follows the request header, or NULL
 * @body_len: bytes of @body
 * @reply: where what follows the reply header is copied to, or NULL
 * @reply_min: fewest bytes that are a valid reply
 * @reply_max: most bytes that are a valid reply: size of @reply
 * @reply_len: out: bytes copied to @reply
 * @handle: the handle that is to be closed if the reply comes when nobody
 *	    waits any more, or 0
 * @timeout: longest wait in jiffies, 0 for the usual one
 * @interruptible: any signal ends the wait, not only a fatal one
 * @orphaned: out: nobody knows whether it was done; @handle is taken care of
 * @answered: out: the host has answered, be it with an error
 */
struct vdmabuf_call {
	u64 session;
	u32 op;
	const void *body;
	size_t body_len;
	void *reply;
	size_t reply_min;
	size_t reply_max;
	size_t reply_len;
	u64 handle;
	unsigned long timeout;
	bool interruptible;
	bool orphaned;
	bool answered;
};

/**
 * struct vdmabuf_request - a request on its way
 * @ref: one for the caller, one for the device
 * @node: in vdmabuf_queue.pending or vdmabuf_device.orphans, else empty
 * @done: called once when it has ended, in any context
 * @completion: for a @done that wakes its caller
 * @fence: the fence that it signals; it goes away when nobody has it any more
 * @ended: @result is final; under vq_lock
 * @result: 0, or why there is no reply
 * @orphan: the caller has left
 * @slow: it waits for fences of the host
 * @deadline: when the device should have answered, in jiffies, or 0: its caller knows
 * @overdue: it should have; @deadline is when the request ends without an answer
 * @op: request code
 * @tag: request tag
 * @session: session it was sent in
 * @handle: see struct vdmabuf_call
 * @used: bytes the device says it wrote
 * @out_len: size of @out
 * @in_len: size of @in
 * @out: the request, readable for the device
 * @in: the reply, writable for the device
 */
struct vdmabuf_request {
	struct kref ref;
	struct list_head node;
	void (*done)(struct vdmabuf_request *req);
	struct completion completion;
	struct vdmabuf_fence __rcu *fence;
	bool ended;
	int result;
	bool orphan;
	bool slow;
	unsigned long deadline;
	bool overdue;
	u32 op;
	u64 tag;
	u64 session;
	u64 handle;
	u32 used;
	size_t out_len;
	size_t in_len;
	void *out;
	void *in;
};

/* main.c */
extern struct workqueue_struct *vdmabuf_wq;

/* queue.c */
struct vdmabuf_request *vdmabuf_request_new(const struct vdmabuf_call *call,
					    void (*done)(struct vdmabuf_request *req));
void vdmabuf_request_put(struct vdmabuf_request *req);
int vdmabuf_submit(struct vdmabuf_device *vd, struct vdmabuf_request *req);
void vdmabuf_request_take(struct vdmabuf_request *req, int result, struct list_head *ended);
void vdmabuf_requests_end(struct list_head *ended);
int vdmabuf_parse(const struct vdmabuf_request *req, void *body, size_t min, size_t max,
		  size_t *body_len);
void vdmabuf_queue_done(struct virtqueue *vq);
void vdmabuf_queue_open(struct vdmabuf_queue *queue, struct virtqueue *vq, u32 max_inflight);
void vdmabuf_queue_close(struct vdmabuf_queue *queue);
void vdmabuf_queues_init(struct vdmabuf_device *vd);
void vdmabuf_queues_fail(struct vdmabuf_device *vd);

/* control.c */
long vdmabuf_submit_wait(struct vdmabuf_device *vd, struct vdmabuf_request *req,
			 unsigned long timeout, bool interruptible);
unsigned long vdmabuf_request_timeout(void);
int vdmabuf_call(struct vdmabuf_device *vd, struct vdmabuf_call *call);
int vdmabuf_call_fd(struct vdmabuf_device *vd, int fd, struct vdmabuf_call *call,
		    __le64 *handle);
int vdmabuf_unmap(struct vdmabuf_device *vd, u64 session, u64 mapping);
int vdmabuf_close(struct vdmabuf_device *vd, u64 session, u64 handle);
void vdmabuf_orphan_add(struct vdmabuf_device *vd, struct vdmabuf_request *req);
void vdmabuf_control_init(struct vdmabuf_device *vd);
void vdmabuf_control_close(struct vdmabuf_device *vd);
void vdmabuf_control_settle(struct vdmabuf_device *vd);

/* session.c */
int vdmabuf_session_start(struct vdmabuf_device *vd);
void vdmabuf_session_stop(struct vdmabuf_device *vd);
u64 vdmabuf_session(struct vdmabuf_device *vd);
u64 vdmabuf_session_enter(struct vdmabuf_device *vd);
void vdmabuf_session_leave(struct vdmabuf_device *vd);
bool vdmabuf_session_is(struct vdmabuf_device *vd, u64 session);

/* event.c */
void vdmabuf_event_done(struct virtqueue *vq);
void vdmabuf_event_fill(struct vdmabuf_device *vd);

/* window.c */
extern struct mutex vdmabuf_lock;
struct vdmabuf_window *vdmabuf_window_add(phys_addr_t start, u64 size,
					  const uuid_t *uuid);
void vdmabuf_window_remove(struct vdmabuf_window *win);
struct vdmabuf_window *vdmabuf_window_find(const uuid_t *uuid);
void vdmabuf_window_get(struct vdmabuf_window *win);
void vdmabuf_window_put(struct vdmabuf_window *win);
int vdmabuf_window_init(void);
void vdmabuf_window_exit(void);

/* open.c */
struct dma_buf *vdmabuf_buffer_make(struct vdmabuf_device *vd, u64 session,
				    const struct virtio_dmabuf_open_resp *open,
				    const struct vdmabuf_want *want, u32 *enforcement);
int vdmabuf_buffer_open(struct vdmabuf_device *vd,
			struct virtio_dmabuf_ioc_open *arg,
			struct dma_buf **result);

/* heap.c */
void vdmabuf_heaps_add(struct vdmabuf_device *vd);
void vdmabuf_heaps_remove(struct vdmabuf_device *vd);

/* buffer.c */
struct vdmabuf_buffer *vdmabuf_buffer_alloc(struct vdmabuf_device *vd, u64 session);
struct dma_buf *vdmabuf_export(struct vdmabuf_buffer *buf);
struct vdmabuf_buffer *vdmabuf_buffer_of(struct dma_buf *dmabuf);
struct vdmabuf_buffer *vdmabuf_buffer_get(struct vdmabuf_device *vd, int fd);
void vdmabuf_buffers_revoke(struct vdmabuf_device *vd,
			    struct vdmabuf_window *win);
void vdmabuf_buffers_unmap(struct vdmabuf_device *vd);
void vdmabuf_buffers_take(struct vdmabuf_device *vd, u64 id);

/* revoke.c */
void vdmabuf_revoke_announced(struct vdmabuf_device *vd, u64 buffer, u64 ms);
void vdmabuf_revoke_stop(struct vdmabuf_device *vd);
void vdmabuf_revoke_init(struct vdmabuf_device *vd);

/* sync.c */
int vdmabuf_sync_start(struct vdmabuf_buffer *buf, enum dma_data_direction dir);
int vdmabuf_sync_end(struct vdmabuf_buffer *buf, enum dma_data_direction dir);
void vdmabuf_sync_undo(struct vdmabuf_device *vd, const struct vdmabuf_request *req);

/* fence.c */
u32 vdmabuf_fence_timeout_ms(u32 wanted);
struct dma_fence *vdmabuf_fence_wait(struct vdmabuf_buffer *buf, u32 usage, u32 timeout_ms,
				     bool nonblock);
int vdmabuf_fence_cancel(struct vdmabuf_device *vd, struct dma_fence *base);
void vdmabuf_deadline_arm(struct vdmabuf_device *vd, unsigned long deadline);
void vdmabuf_deadline_stop(struct vdmabuf_device *vd);
void vdmabuf_fence_init(struct vdmabuf_device *vd);

/* fence_ioctl.c */
long vdmabuf_fence_ioctl(struct vdmabuf_device *vd, unsigned int cmd, void __user *uarg,
			 bool nonblock);

/* list.c */
void vdmabuf_format_from_wire(struct virtio_dmabuf_ioc_format *out,
			      const struct virtio_dmabuf_format *in);
void vdmabuf_format_to_wire(struct virtio_dmabuf_format *out,
			    const struct virtio_dmabuf_ioc_format *in);
int vdmabuf_ioc_list(struct vdmabuf_device *vd, void __user *uarg);
int vdmabuf_ioc_stream_list(struct vdmabuf_device *vd, void __user *uarg);
int vdmabuf_ioc_stream_stats(struct vdmabuf_device *vd, void __user *uarg);

/* publish.c */
int vdmabuf_ioc_publish(struct vdmabuf_device *vd, void __user *uarg);
int vdmabuf_ioc_withdraw(struct vdmabuf_device *vd, void __user *uarg);
int vdmabuf_ioc_revoke(struct vdmabuf_device *vd, void __user *uarg);

/* chardev.c */
bool vdmabuf_name_ok(const __u8 *name);
int vdmabuf_chardev_add(struct vdmabuf_device *vd);
void vdmabuf_chardev_remove(struct vdmabuf_device *vd);
void vdmabuf_chardev_event(struct vdmabuf_device *vd,
			   const struct virtio_dmabuf_ioc_event *event);
void vdmabuf_chardev_wake(struct vdmabuf_device *vd);
struct vdmabuf_device *vdmabuf_device_alloc(struct virtio_device *vdev);
int vdmabuf_chardev_init(void);
void vdmabuf_chardev_exit(void);

#endif /* _VDMABUF_H */
