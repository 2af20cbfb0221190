/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * virtio dmabuf: wire format (protocol/SPEC.md) and the ioctls of /dev/virtio-dmabufN.
 *
 * All wire fields are little-endian. The Rust form is protocol/src/; the golden
 * vectors under protocol/golden/ are checked against both.
 */
#ifndef _UAPI_LINUX_VIRTIO_DMABUF_H
#define _UAPI_LINUX_VIRTIO_DMABUF_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define VIRTIO_DMABUF_ID		37
#define VIRTIO_DMABUF_VERSION		1
#define VIRTIO_DMABUF_PAGE_SIZE		4096
#define VIRTIO_DMABUF_NAME_LEN		64

/* Queues */
#define VIRTIO_DMABUF_VQ_CONTROL	0
#define VIRTIO_DMABUF_VQ_EVENT		1
#define VIRTIO_DMABUF_VQ_FENCE		2
#define VIRTIO_DMABUF_NUM_VQS		3

/* Shared memory region that is the dynamic window */
#define VIRTIO_DMABUF_SHM_WINDOW	0

/* Feature bit numbers */
#define VIRTIO_DMABUF_F_ALLOC		0
#define VIRTIO_DMABUF_F_FENCE		1
#define VIRTIO_DMABUF_F_STREAM		2
#define VIRTIO_DMABUF_F_STATIC_WINDOW	3

/* Request codes */
#define VIRTIO_DMABUF_GET_INFO		0x01
#define VIRTIO_DMABUF_LIST		0x02
#define VIRTIO_DMABUF_OPEN		0x03
#define VIRTIO_DMABUF_CLOSE		0x04
#define VIRTIO_DMABUF_MAP		0x05
#define VIRTIO_DMABUF_UNMAP		0x06
#define VIRTIO_DMABUF_DERIVE		0x07
#define VIRTIO_DMABUF_GET_USAGE		0x08
#define VIRTIO_DMABUF_SYNC_START	0x10
#define VIRTIO_DMABUF_SYNC_END		0x11
#define VIRTIO_DMABUF_FENCE_WAIT	0x20
#define VIRTIO_DMABUF_FENCE_CANCEL	0x21
#define VIRTIO_DMABUF_FENCE_QUERY	0x22
#define VIRTIO_DMABUF_RELEASE		0x23
#define VIRTIO_DMABUF_HOLD		0x24
#define VIRTIO_DMABUF_ALLOC		0x30
#define VIRTIO_DMABUF_IMPORT		0x31
#define VIRTIO_DMABUF_PUBLISH		0x32
#define VIRTIO_DMABUF_WITHDRAW		0x33
#define VIRTIO_DMABUF_HEAP_LIST		0x34
#define VIRTIO_DMABUF_REVOKE		0x35
#define VIRTIO_DMABUF_STREAM_OPEN	0x40
#define VIRTIO_DMABUF_STREAM_CLOSE	0x41
#define VIRTIO_DMABUF_STREAM_BUFFER	0x42
#define VIRTIO_DMABUF_STREAM_ACQUIRE	0x43
#define VIRTIO_DMABUF_STREAM_RELEASE	0x44
#define VIRTIO_DMABUF_STREAM_STATS	0x45
#define VIRTIO_DMABUF_STREAM_LIST	0x46
#define VIRTIO_DMABUF_STREAM_CREATE	0x48
#define VIRTIO_DMABUF_STREAM_ADD	0x49
#define VIRTIO_DMABUF_STREAM_QUEUE	0x4a
#define VIRTIO_DMABUF_STREAM_RECLAIM	0x4b
#define VIRTIO_DMABUF_STREAM_REVOKE	0x4c

/* Event kinds */
#define VIRTIO_DMABUF_EVENT_ADDED	0x80000001U
#define VIRTIO_DMABUF_EVENT_WITHDRAWN	0x80000002U
#define VIRTIO_DMABUF_EVENT_RELEASED	0x80000003U
#define VIRTIO_DMABUF_EVENT_REVOKED	0x80000004U
#define VIRTIO_DMABUF_EVENT_FREE	0x80000005U
#define VIRTIO_DMABUF_EVENT_FRAME	0x80000010U
#define VIRTIO_DMABUF_EVENT_STREAM_WITHDRAWN	0x80000011U
#define VIRTIO_DMABUF_EVENT_STREAM_ADDED	0x80000012U
#define VIRTIO_DMABUF_EVENT_STREAM_FREE	0x80000013U

/* Which frames a consumer of a stream gets */
#define VIRTIO_DMABUF_MODE_LATEST	1
#define VIRTIO_DMABUF_MODE_FIFO		2

/* flags of a frame: FENCE_WAIT tells when it is finished */
#define VIRTIO_DMABUF_FRAME_FENCED	1
/* on a socket: a sync_file came along, which tells that, too */
#define VIRTIO_DMABUF_FRAME_SYNC_FILE	2

/* Most buffers of a stream, and most frames that wait for a consumer */
#define VIRTIO_DMABUF_STREAM_BUFFERS	64

/* Access: the values of O_RDONLY and O_RDWR */
#define VIRTIO_DMABUF_RDONLY		0
#define VIRTIO_DMABUF_RDWR		2
#define VIRTIO_DMABUF_CLOEXEC		0x80000

/* Usage: what is waited for, or held up; also the flags of SYNC_START and SYNC_END */
#define VIRTIO_DMABUF_USAGE_READ	1
#define VIRTIO_DMABUF_USAGE_WRITE	2

/* flags of replies: the memory has no dma-buf, so there are no fences and no caches */
#define VIRTIO_DMABUF_NO_DMA_BUF	1

/* virtio_dmabuf_fence_query_resp.state */
#define VIRTIO_DMABUF_FENCE_PENDING	0
#define VIRTIO_DMABUF_FENCE_SIGNALLED	1
#define VIRTIO_DMABUF_FENCE_FAILED	2

/* Enforcement: who makes a read-only alias read-only */
#define VIRTIO_DMABUF_ENFORCE_NONE	0
#define VIRTIO_DMABUF_ENFORCE_VMM	1
#define VIRTIO_DMABUF_ENFORCE_IOCTL	2
#define VIRTIO_DMABUF_ENFORCE_DERIVED	3
#define VIRTIO_DMABUF_ENFORCE_SEALED	4

/* Heaps */
#define VIRTIO_DMABUF_HEAP_DMA_HEAP	1
#define VIRTIO_DMABUF_HEAP_UDMABUF	2
#define VIRTIO_DMABUF_HEAP_MEMFD	3
#define VIRTIO_DMABUF_HEAP_IMPORTED	4

/* Who a peer is */
#define VIRTIO_DMABUF_PEER_VM		1
#define VIRTIO_DMABUF_PEER_CLIENT	2

/* Index into virtio_dmabuf_peer_usage.uses */
#define VIRTIO_DMABUF_USE_HANDLES	0
#define VIRTIO_DMABUF_USE_MAPPINGS	1
#define VIRTIO_DMABUF_USE_INFLIGHT	2
#define VIRTIO_DMABUF_USE_WAITS		3
#define VIRTIO_DMABUF_USE_ENDS		4
#define VIRTIO_DMABUF_USE_BUFFERS	5
#define VIRTIO_DMABUF_USE_BYTES		6
#define VIRTIO_DMABUF_USE_HOLDS		7
#define VIRTIO_DMABUF_USE_CONSUMERS	8
#define VIRTIO_DMABUF_USES		9

/* How to map a window range */
#define VIRTIO_DMABUF_CACHE_CACHED	1
#define VIRTIO_DMABUF_CACHE_UNCACHED	2
#define VIRTIO_DMABUF_CACHE_WC		3

/* Windows */
#define VIRTIO_DMABUF_WINDOW_DYNAMIC	0
#define VIRTIO_DMABUF_WINDOW_STATIC	1
#define VIRTIO_DMABUF_WINDOW_BIT_DYNAMIC	1
#define VIRTIO_DMABUF_WINDOW_BIT_STATIC		2

/* virtio_dmabuf_buffer.flags */
#define VIRTIO_DMABUF_BUFFER_STATIC	1
/* virtio_dmabuf_{import,publish}.flags */
#define VIRTIO_DMABUF_PUBLISH_KEEP	1
/* virtio_dmabuf_event.value of VIRTIO_DMABUF_EVENT_FREE: others may still see it, as zeroes */
#define VIRTIO_DMABUF_FREE_SHARED	1
/* Longest virtio_dmabuf_{revoke,stream_revoke}.deadline_ms; more counts as that */
#define VIRTIO_DMABUF_REVOKE_MAX_MS	60000

#define VIRTIO_DMABUF_CONFIG_MAGIC	"VDMABUF\0"
#define VIRTIO_DMABUF_WINDOW_MAGIC	"VDMABUFW"

/* Device configuration space */
struct virtio_dmabuf_config {
	__u8 magic[8];
	__le32 version;
	__le32 windows;
	__le64 window_size;
	__u8 uuid[16];
	__le32 max_handles;
	__le32 max_mappings;
	__le32 max_inflight;
	__le32 num_static;
	__le64 reserved;
};

/* Start of a static window */
struct virtio_dmabuf_window {
	__u8 magic[8];
	__le32 version;
	__le32 reserved;
	__u8 uuid[16];
	__le64 size;
	__le64 first_slot;
	__le64 slot_size;
	__le32 slots;
	__le32 reserved2;
};

struct virtio_dmabuf_req_hdr {
	__le32 op;
	__le32 reserved;
	__le64 tag;
};

struct virtio_dmabuf_resp_hdr {
	__le32 op;
	__le32 status;
	__le64 tag;
};

struct virtio_dmabuf_format {
	__le32 fourcc;
	__le32 width;
	__le32 height;
	__le32 num_planes;
	__le64 modifier;
	__le32 offset[4];
	__le32 stride[4];
	__le64 reserved;
};

struct virtio_dmabuf_buffer {
	__le64 id;
	__le64 size;
	__le32 access;
	__le32 enforcement;
	__le32 heap;
	__le32 flags;
	struct virtio_dmabuf_format format;
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

struct virtio_dmabuf_info_resp {
	__le32 version;
	__le32 windows;
	__le64 window_size;
	__le32 max_handles;
	__le32 max_mappings;
	__le32 max_inflight;
	__le32 handles;
	__le32 mappings;
	__le32 probe;
	__le64 reserved[3];
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

struct virtio_dmabuf_list {
	__le64 cursor;
	__le32 max;
	__le32 reserved;
};

struct virtio_dmabuf_list_resp {
	__le32 count;
	__le32 reserved;
	__le64 next;
	/* struct virtio_dmabuf_buffer entries[count]; */
};

struct virtio_dmabuf_use {
	__le64 used;
	__le64 limit;
};

/* The request, and the head of the reply, are those of LIST */
struct virtio_dmabuf_peer_usage {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__le32 kind;
	__le32 sessions;
	__le32 per_session;
	__le32 reserved;
	struct virtio_dmabuf_use uses[VIRTIO_DMABUF_USES];
};

struct virtio_dmabuf_open {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__le32 flags;
	__le32 enforcement;
};

struct virtio_dmabuf_open_resp {
	__le64 handle;
	__le64 fd_offset;
	struct virtio_dmabuf_buffer buffer;
};

struct virtio_dmabuf_close {
	__le64 handle;
};

struct virtio_dmabuf_map {
	__le64 handle;
	__le64 offset;
	__le64 length;
	__le32 access;
	__le32 reserved;
};

struct virtio_dmabuf_map_resp {
	__le64 mapping;
	__le64 window_offset;
	__le64 length;
	__le32 access;
	__le32 enforcement;
	__le32 caching;
	__le32 window;
	__u8 uuid[16];
	__le64 reserved;
};

struct virtio_dmabuf_unmap {
	__le64 mapping;
};

struct virtio_dmabuf_derive {
	__le64 handle;
	__le32 flags;
	__le32 enforcement;
};

struct virtio_dmabuf_alloc {
	__u8 heap[VIRTIO_DMABUF_NAME_LEN];
	__le64 size;
	__le64 flags;
};

struct virtio_dmabuf_import {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__le64 flags;
	struct virtio_dmabuf_format format;
};

struct virtio_dmabuf_publish {
	__le64 handle;
	__le64 flags;
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	struct virtio_dmabuf_format format;
};

struct virtio_dmabuf_withdraw {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

struct virtio_dmabuf_heap_list {
	__le32 index;
	__le32 reserved;
};

struct virtio_dmabuf_heap_list_resp {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__le64 max_size;
	__le32 kind;
	__le32 count;
	__le64 reserved[2];
};

/* By handle or by name; the other one is zero */
struct virtio_dmabuf_revoke {
	__le64 handle;
	__le32 deadline_ms;
	__le32 reserved;
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

struct virtio_dmabuf_sync {
	__le64 handle;
	__le32 flags;
	__le32 reserved;
};

struct virtio_dmabuf_sync_resp {
	__le32 flags;
	__le32 open;
};

struct virtio_dmabuf_fence_wait {
	__le64 handle;
	__le32 usage;
	__le32 timeout_ms;
};

struct virtio_dmabuf_fence_wait_resp {
	__le32 flags;
	__le32 fences;
	__le64 timestamp_ns;
};

struct virtio_dmabuf_fence_cancel {
	__le64 tag;
};

struct virtio_dmabuf_fence_query {
	__le64 handle;
	__le32 usage;
	__le32 reserved;
};

struct virtio_dmabuf_fence_query_resp {
	__le32 flags;
	__le32 fences;
	__le32 state;
	__le32 error;
};

struct virtio_dmabuf_release {
	__le64 handle;
	__le64 value;
};

struct virtio_dmabuf_hold {
	__le64 handle;
	__le32 usage;
	__le32 timeout_ms;
};

struct virtio_dmabuf_hold_resp {
	__le32 timeout_ms;
	__le32 reserved;
};

struct virtio_dmabuf_stream_open {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__le32 mode;
	__le32 depth;
	__le32 hold_ms;
	__le32 reserved;
};

struct virtio_dmabuf_stream_open_resp {
	__le64 stream;
	__le32 buffers;
	__le32 hold_ms;
	__le32 max_held;
	__le32 reserved;
	__le64 id;
	struct virtio_dmabuf_format format;
};

/* STREAM_CLOSE, STREAM_ACQUIRE, STREAM_RECLAIM */
struct virtio_dmabuf_stream {
	__le64 stream;
};

/* Its reply is struct virtio_dmabuf_open_resp */
struct virtio_dmabuf_stream_buffer {
	__le64 stream;
	__le32 index;
	__le32 enforcement;
};

struct virtio_dmabuf_frame_resp {
	__le64 sequence;
	__le64 timestamp_ns;
	__le64 skipped;
	__le32 index;
	__le32 flags;
	__le32 hold_ms;
	__le32 ready;
};

struct virtio_dmabuf_stream_release {
	__le64 stream;
	__le64 sequence;
};

struct virtio_dmabuf_stream_stats {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__le32 cursor;
	__le32 reserved;
};

struct virtio_dmabuf_stream_stats_resp {
	__le64 produced;
	__le32 buffers;
	__le32 with_producer;
	__le32 free;
	__le32 consumers;
	__le32 count;
	__le32 next;
	__le64 reserved;
	/* struct virtio_dmabuf_consumer entries[count]; */
};

struct virtio_dmabuf_consumer {
	__u8 peer[VIRTIO_DMABUF_NAME_LEN];
	__le32 mode;
	__le32 depth;
	__le64 joined;
	__le64 delivered;
	__le64 skipped;
	__le64 expired;
	__le32 ready;
	__le32 held;
};

/* An entry of STREAM_LIST, whose request and reply are those of LIST */
struct virtio_dmabuf_stream_info {
	__le64 id;
	__le64 produced;
	__le32 buffers;
	__le32 consumers;
	__le64 reserved;
	struct virtio_dmabuf_format format;
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

struct virtio_dmabuf_stream_create {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__le64 flags;
	struct virtio_dmabuf_format format;
};

struct virtio_dmabuf_stream_create_resp {
	__le64 stream;
	__le64 id;
};

struct virtio_dmabuf_stream_add {
	__le64 stream;
	__le64 handle;
};

/* STREAM_ADD, STREAM_RECLAIM */
struct virtio_dmabuf_stream_index_resp {
	__le32 index;
	__le32 reserved;
};

struct virtio_dmabuf_stream_queue {
	__le64 stream;
	__le64 timestamp_ns;
	__le32 index;
	__le32 flags;
};

struct virtio_dmabuf_stream_queue_resp {
	__le64 sequence;
};

struct virtio_dmabuf_stream_revoke {
	__le64 stream;
	__le32 deadline_ms;
	__le32 reserved;
};

struct virtio_dmabuf_event {
	__le32 kind;
	__le32 reserved;
	__le64 sequence;
	__le64 buffer;
	__le64 value;
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

/*
 * The ioctls of /dev/virtio-dmabufN. Fields are in the guest's byte order.
 */

/**
 * struct virtio_dmabuf_ioc_info - what the device is
 * @version: protocol version
 * @windows: VIRTIO_DMABUF_WINDOW_BIT_*
 * @window_size: size of the dynamic window in bytes, 0 for none
 * @max_handles: most buffers this guest can have open at once
 * @max_mappings: most mappings this guest can have at once
 * @handles: open now
 * @mappings: mapped now
 * @probe: whether the VMM honours read-only mappings: 0 not known, 1 yes, 2 no
 * @reserved: zero
 * @uuid: uuid of the first static window, or zero
 * @name: what the host calls this guest
 */
struct virtio_dmabuf_ioc_info {
	__u32 version;
	__u32 windows;
	__u64 window_size;
	__u32 max_handles;
	__u32 max_mappings;
	__u32 handles;
	__u32 mappings;
	__u32 probe;
	__u32 reserved;
	__u8 uuid[16];
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

/**
 * struct virtio_dmabuf_ioc_format - the layout of a picture in a buffer
 * @fourcc: DRM format; 0: not known, and all that follows is 0
 * @width: pixels
 * @height: pixels
 * @num_planes: planes in use, 1 to 4
 * @modifier: DRM format modifier
 * @offset: offset of each plane in bytes
 * @stride: bytes from line to line of each plane
 *
 * It is as its producer has described it: check that it fits into the buffer.
 */
struct virtio_dmabuf_ioc_format {
	__u32 fourcc;
	__u32 width;
	__u32 height;
	__u32 num_planes;
	__u64 modifier;
	__u32 offset[4];
	__u32 stride[4];
};

/**
 * struct virtio_dmabuf_ioc_buffer - one buffer of the list
 * @id: number of the buffer on the host, never used again
 * @size: bytes
 * @access: the most access this guest may have: O_RDONLY or O_RDWR
 * @enforcement: VIRTIO_DMABUF_ENFORCE_*
 * @heap: VIRTIO_DMABUF_HEAP_*
 * @flags: VIRTIO_DMABUF_BUFFER_*
 * @format: the picture in it
 * @name: NUL-padded name
 */
struct virtio_dmabuf_ioc_buffer {
	__u64 id;
	__u64 size;
	__u32 access;
	__u32 enforcement;
	__u32 heap;
	__u32 flags;
	struct virtio_dmabuf_ioc_format format;
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

/**
 * struct virtio_dmabuf_ioc_list - a page of the list of buffers, or of streams
 * @cursor: in: 0, or @next of the page before
 * @next: out: cursor of the next page, 0 after the last
 * @entries: in: address of an array of struct virtio_dmabuf_ioc_buffer, or of
 *	     struct virtio_dmabuf_ioc_stream_info
 * @count: in: length of that array; out: entries filled
 * @reserved: zero
 */
struct virtio_dmabuf_ioc_list {
	__u64 cursor;
	__u64 next;
	__u64 entries;
	__u32 count;
	__u32 reserved;
};

/**
 * struct virtio_dmabuf_ioc_open - a dma-buf for a host buffer
 * @name: in: NUL-padded name
 * @flags: in: O_RDONLY or O_RDWR, optionally with O_CLOEXEC
 * @fd: out: the dma-buf
 * @enforcement: in: least enforcement wanted, 0: what the grant demands; out: the one in force
 * @reserved: zero
 * @size: out: bytes
 */
struct virtio_dmabuf_ioc_open {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__u32 flags;
	__s32 fd;
	__u32 enforcement;
	__u32 reserved;
	__u64 size;
};

/**
 * struct virtio_dmabuf_ioc_event - what read() returns, whole ones only
 * @kind: VIRTIO_DMABUF_EVENT_ADDED, _WITHDRAWN, _RELEASED, _REVOKED, _FREE or
 *	  _STREAM_ADDED
 * @reserved: zero
 * @sequence: counts up by one; a gap means that events were lost, list again
 * @buffer: number of the buffer, or of the stream
 * @value: of VIRTIO_DMABUF_EVENT_RELEASED: what the consumer said; of
 *	   VIRTIO_DMABUF_EVENT_REVOKED: when the host takes the buffer away, in
 *	   milliseconds; of VIRTIO_DMABUF_EVENT_FREE: VIRTIO_DMABUF_FREE_SHARED or 0;
 *	   else zero
 * @name: its name
 *
 * A buffer that is taken away is revoked by the driver a little earlier: mappings of
 * its dma-buf raise SIGBUS, and everything else fails with EIO. Dma-bufs that this guest
 * has allocated stay.
 *
 * After a suspend of the guest, or another reset of the device, read() fails once
 * with ESTALE: what was opened is gone, list and open again. It fails with EIO while
 * the device is gone.
 */
struct virtio_dmabuf_ioc_event {
	__u32 kind;
	__u32 reserved;
	__u64 sequence;
	__u64 buffer;
	__u64 value;
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

/* virtio_dmabuf_ioc_fence.flags */
#define VIRTIO_DMABUF_FENCE_SYNC_FILE	1

/**
 * struct virtio_dmabuf_ioc_fence - brings the host's fences into the guest
 * @fd: in: a dma-buf from VIRTIO_DMABUF_IOC_OPEN on this device
 * @usage: in: VIRTIO_DMABUF_USAGE_READ: until it can be read (what writes to it);
 *	   VIRTIO_DMABUF_USAGE_WRITE: until it can be written (all that uses it)
 * @timeout_ms: in: longest wait; 0, or more than the host or the module allows:
 *		as long as they allow
 * @flags: in: VIRTIO_DMABUF_FENCE_*
 * @sync_file: out: with VIRTIO_DMABUF_FENCE_SYNC_FILE a sync_file, close-on-exec;
 *	       else -1
 * @reserved: zero
 *
 * The fences that the host's buffer has now become one fence of the guest's
 * dma-buf: poll(), DMA_BUF_IOCTL_EXPORT_SYNC_FILE and importers wait for it.
 * Those that are added to it later are not included. The call itself doesn't wait
 * for them; it can wait for earlier ones to end while there are very many, with
 * O_NONBLOCK it is EAGAIN then.
 *
 * The fence ends with the status of the host's fence; or with -ETIMEDOUT, with
 * -ECANCELED, with -EOWNERDEAD when the buffer's producer has ended, with -EBUSY
 * when the host takes no more waits of this guest, with -EIO when the device went
 * away.
 */
struct virtio_dmabuf_ioc_fence {
	__s32 fd;
	__u32 usage;
	__u32 timeout_ms;
	__u32 flags;
	__s32 sync_file;
	__u32 reserved;
};

/**
 * struct virtio_dmabuf_ioc_cancel - ends a fence of VIRTIO_DMABUF_IOC_FENCE early
 * @sync_file: in: its sync_file
 * @reserved: zero
 *
 * The fence has ended when the call returns: with -ECANCELED if that is 0; by
 * itself, before, if it fails with ENOENT. A fence that nobody has a reference to
 * any more is cancelled by itself.
 */
struct virtio_dmabuf_ioc_cancel {
	__s32 sync_file;
	__u32 reserved;
};

/**
 * struct virtio_dmabuf_ioc_query - the host's fences now
 * @fd: in: a dma-buf of this device
 * @usage: in: VIRTIO_DMABUF_USAGE_*
 * @flags: out: VIRTIO_DMABUF_NO_DMA_BUF
 * @fences: out: how many there are
 * @state: out: VIRTIO_DMABUF_FENCE_PENDING, _SIGNALLED or _FAILED
 * @error: out: errno of a failed one
 */
struct virtio_dmabuf_ioc_query {
	__s32 fd;
	__u32 usage;
	__u32 flags;
	__u32 fences;
	__u32 state;
	__u32 error;
};

/**
 * struct virtio_dmabuf_ioc_hold - puts a fence on the host's buffer
 * @fd: in: a dma-buf of this device
 * @usage: in: VIRTIO_DMABUF_USAGE_READ: nobody shall write to it;
 *	   VIRTIO_DMABUF_USAGE_WRITE: nobody shall use it
 * @timeout_ms: in: how long, 0 for as long as the host allows; out: as granted
 * @reserved: zero
 *
 * It ends by VIRTIO_DMABUF_IOC_RELEASE, with the dma-buf, or after @timeout_ms.
 */
struct virtio_dmabuf_ioc_hold {
	__s32 fd;
	__u32 usage;
	__u32 timeout_ms;
	__u32 reserved;
};

/**
 * struct virtio_dmabuf_ioc_release - tells the producer that the buffer is done with
 * @fd: in: a dma-buf of this device
 * @reserved: zero
 * @value: in: handed to the producer as it is
 */
struct virtio_dmabuf_ioc_release {
	__s32 fd;
	__u32 reserved;
	__u64 value;
};

/**
 * struct virtio_dmabuf_ioc_publish - gives a buffer a name, so that others can open it
 * @name: NUL-padded name; the host says which ones this guest may use
 * @fd: a dma-buf that was allocated from one of the host's heaps
 * @flags: VIRTIO_DMABUF_PUBLISH_KEEP or 0: whether the name stays when this guest is reset
 * @format: the picture in it
 */
struct virtio_dmabuf_ioc_publish {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__s32 fd;
	__u32 flags;
	struct virtio_dmabuf_ioc_format format;
};

/**
 * struct virtio_dmabuf_ioc_withdraw - takes a name away; who has opened the buffer keeps it
 * @name: NUL-padded name
 */
struct virtio_dmabuf_ioc_withdraw {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

/**
 * struct virtio_dmabuf_ioc_revoke - takes a buffer away from everybody else
 * @fd: a dma-buf that was allocated from one of the host's heaps
 * @deadline_ms: how long they have to let go, VIRTIO_DMABUF_REVOKE_MAX_MS at most;
 *		 leave VMs some time
 * @reserved: zero
 *
 * It isn't waited for: VIRTIO_DMABUF_EVENT_FREE tells the end, and all bytes are zero
 * then. The dma-buf stays. What this guest has opened by the buffer's name goes as
 * everywhere else, with VIRTIO_DMABUF_EVENT_REVOKED. ESTALE: the buffer is being revoked
 * already, or was.
 */
struct virtio_dmabuf_ioc_revoke {
	__s32 fd;
	__u32 deadline_ms;
	__u64 reserved;
};

/*
 * Streams. A stream is a named sequence of frames over a fixed set of buffers, with
 * one producer and any number of consumers. Each end is a file of its own, which
 * VIRTIO_DMABUF_IOC_STREAM_OPEN or _STREAM_CREATE makes; closing it closes the end.
 * A guest has at most 64 ends: one more is EMFILE.
 *
 * A file belongs to the session in which it was made. After a reset, a suspend, or
 * when the device or the host's daemon is gone, everything on it fails with EIO, and
 * poll() tells EPOLLERR | EPOLLHUP.
 *
 * Every call that isn't answered from what the driver knows is a request to the
 * host: also with O_NONBLOCK it takes the time of its answer. O_NONBLOCK is about
 * waiting for frames, and for buffers that are free.
 */

/**
 * struct virtio_dmabuf_ioc_stream_info - one of the streams that this guest may consume
 * @id: number of the stream on the host, never used again
 * @produced: frames so far
 * @buffers: its buffers
 * @consumers: its consumers
 * @format: the pictures in it
 * @name: NUL-padded name
 */
struct virtio_dmabuf_ioc_stream_info {
	__u64 id;
	__u64 produced;
	__u32 buffers;
	__u32 consumers;
	struct virtio_dmabuf_ioc_format format;
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
};

/**
 * struct virtio_dmabuf_ioc_consumer - what a consumer of a stream has had
 * @peer: what the host calls it
 * @mode: VIRTIO_DMABUF_MODE_*
 * @depth: of VIRTIO_DMABUF_MODE_FIFO
 * @joined: frames that the stream had seen before
 * @delivered: frames that it acquired
 * @skipped: frames that it didn't get
 * @expired: holds that ended by their deadline
 * @ready: frames that wait for it
 * @held: frames that it holds
 */
struct virtio_dmabuf_ioc_consumer {
	__u8 peer[VIRTIO_DMABUF_NAME_LEN];
	__u32 mode;
	__u32 depth;
	__u64 joined;
	__u64 delivered;
	__u64 skipped;
	__u64 expired;
	__u32 ready;
	__u32 held;
};

/**
 * struct virtio_dmabuf_ioc_stream_stats - a stream's counters, and a page of its consumers'
 * @name: in: NUL-padded name
 * @entries: in: address of an array of struct virtio_dmabuf_ioc_consumer
 * @count: in: length of that array; out: entries filled
 * @cursor: in: 0, or @next of the page before
 * @next: out: cursor of the next page, 0 after the last
 * @buffers: out: its buffers
 * @with_producer: out: of those, with the producer
 * @free: out: of those, free to be reclaimed
 * @produced: out: frames so far
 * @consumers: out: its consumers
 * @reserved: zero
 */
struct virtio_dmabuf_ioc_stream_stats {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__u64 entries;
	__u32 count;
	__u32 cursor;
	__u32 next;
	__u32 buffers;
	__u32 with_producer;
	__u32 free;
	__u64 produced;
	__u32 consumers;
	__u32 reserved;
};

/* virtio_dmabuf_ioc_stream_open.options */
#define VIRTIO_DMABUF_STREAM_FENCES	1

/**
 * struct virtio_dmabuf_ioc_stream_open - a consumer's file
 * @name: in: NUL-padded name
 * @mode: in: VIRTIO_DMABUF_MODE_*
 * @depth: in: VIRTIO_DMABUF_MODE_FIFO: most frames that wait, 1 to 64; else 0
 * @hold_ms: in: longest hold of a frame, 0 for as long as the host allows; out: as granted
 * @flags: in: O_CLOEXEC, O_NONBLOCK, for the file
 * @options: in: VIRTIO_DMABUF_STREAM_FENCES: a frame that is FENCED comes with its
 *	     fence in its buffer's dma-buf, as by VIRTIO_DMABUF_IOC_FENCE
 * @fd: out: the file
 * @buffers: out: buffers that the stream has now
 * @max_held: out: most frames held at once
 * @id: out: number of the stream
 * @format: out: the pictures in it
 *
 * The file gets the frames that are queued from now on.
 *
 * read() acquires frames: as many struct virtio_dmabuf_ioc_frame as are ready and
 * fit, at least one. It waits for the first one; with O_NONBLOCK it is EAGAIN. It
 * returns 0 when the stream has ended and no frame is left. It is EBUSY when
 * @max_held frames are held, and EINVAL if not even one fits.
 *
 * poll(): EPOLLIN: a read() is worth while: a frame is ready. It can be gone by then,
 * when the producer had no other buffer. EPOLLHUP: the stream has ended; frames can
 * be left.
 *
 * Its ioctls are VIRTIO_DMABUF_IOC_STREAM_RELEASE and _STREAM_BUFFER.
 */
struct virtio_dmabuf_ioc_stream_open {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	__u32 mode;
	__u32 depth;
	__u32 hold_ms;
	__u32 flags;
	__u32 options;
	__s32 fd;
	__u32 buffers;
	__u32 max_held;
	__u64 id;
	struct virtio_dmabuf_ioc_format format;
};

/**
 * struct virtio_dmabuf_ioc_frame - what read() of a consumer's file returns, whole ones only
 * @sequence: counts up by one over the life of the stream
 * @timestamp_ns: the producer's, in the host's CLOCK_MONOTONIC
 * @skipped: frames that this consumer has not got so far
 * @index: its buffer, for VIRTIO_DMABUF_IOC_STREAM_BUFFER
 * @flags: VIRTIO_DMABUF_FRAME_FENCED: the hardware may still be writing. Without
 *	   VIRTIO_DMABUF_STREAM_FENCES, use VIRTIO_DMABUF_IOC_FENCE on the dma-buf
 *	   before reading it
 * @hold_ms: how long it is held, unless it is released before. What is in the buffer
 *	     after that is a later frame, or a part of one
 * @ready: frames that wait after this one
 */
struct virtio_dmabuf_ioc_frame {
	__u64 sequence;
	__u64 timestamp_ns;
	__u64 skipped;
	__u32 index;
	__u32 flags;
	__u32 hold_ms;
	__u32 ready;
};

/**
 * struct virtio_dmabuf_ioc_stream_release - gives a frame back
 * @sequence: of the frame
 *
 * ESTALE: it isn't held: it was given back before, or its time was over.
 */
struct virtio_dmabuf_ioc_stream_release {
	__u64 sequence;
};

/**
 * struct virtio_dmabuf_ioc_stream_buffer - a dma-buf, read-only, for all frames with an index
 * @index: in: of the buffer
 * @flags: in: O_CLOEXEC or 0
 * @enforcement: in: least enforcement wanted, 0: what the grant demands; out: the one in force
 * @fd: out: the dma-buf. It is the same one whenever this file is asked
 * @size: out: bytes
 *
 * The dma-buf can outlive the file.
 */
struct virtio_dmabuf_ioc_stream_buffer {
	__u32 index;
	__u32 flags;
	__u32 enforcement;
	__s32 fd;
	__u64 size;
};

/**
 * struct virtio_dmabuf_ioc_stream_create - a new stream, and its producer's file
 * @name: in: NUL-padded name; the host says which ones this guest may use
 * @format: in: the pictures in it
 * @flags: in: O_CLOEXEC, O_NONBLOCK, for the file
 * @fd: out: the file
 * @id: out: number of the stream
 *
 * poll(): EPOLLOUT: VIRTIO_DMABUF_IOC_STREAM_RECLAIM is worth while.
 *
 * Its ioctls are VIRTIO_DMABUF_IOC_STREAM_ADD, _STREAM_QUEUE, _STREAM_RECLAIM and
 * _STREAM_REVOKE.
 * Closing it ends the stream.
 */
struct virtio_dmabuf_ioc_stream_create {
	__u8 name[VIRTIO_DMABUF_NAME_LEN];
	struct virtio_dmabuf_ioc_format format;
	__u32 flags;
	__s32 fd;
	__u64 id;
};

/**
 * struct virtio_dmabuf_ioc_stream_add - gives a stream one more buffer
 * @fd: in: a dma-buf that was allocated from one of the host's heaps; it can be
 *	closed afterwards
 * @index: out: of the buffer, counts up from 0; it is with the producer
 *
 * EINVAL: no dma-buf of this device, or the stream has 64 buffers. EACCES: it was
 * opened, not allocated. ESTALE: it was allocated before a reset.
 */
struct virtio_dmabuf_ioc_stream_add {
	__s32 fd;
	__u32 index;
};

/**
 * struct virtio_dmabuf_ioc_stream_queue - hands a frame over to the consumers
 * @index: in: of its buffer, which must not be written to until it is reclaimed
 * @flags: in: VIRTIO_DMABUF_FRAME_FENCED or 0
 * @timestamp_ns: in: in the host's CLOCK_MONOTONIC; 0: now
 * @sequence: out: of the frame
 *
 * EBUSY: the buffer isn't with the producer.
 */
struct virtio_dmabuf_ioc_stream_queue {
	__u32 index;
	__u32 flags;
	__u64 timestamp_ns;
	__u64 sequence;
};

/**
 * struct virtio_dmabuf_ioc_stream_reclaim - takes a buffer back that nobody uses any more
 * @index: out: of the buffer; it is with the producer
 * @reserved: out: zero
 *
 * Waits for one; with O_NONBLOCK it is EAGAIN. If no buffer is free, frames that
 * nobody has acquired yet are taken back: reclaim only when a buffer is needed.
 */
struct virtio_dmabuf_ioc_stream_reclaim {
	__u32 index;
	__u32 reserved;
};

/**
 * struct virtio_dmabuf_ioc_stream_revoke - ends the stream, and takes its buffers away
 * @deadline_ms: as in struct virtio_dmabuf_ioc_revoke, of which this is one for each buffer
 * @reserved: zero
 *
 * From then on everything but close() is ESTALE.
 */
struct virtio_dmabuf_ioc_stream_revoke {
	__u32 deadline_ms;
	__u32 reserved;
};

#define VIRTIO_DMABUF_IOC_MAGIC	0xd6
#define VIRTIO_DMABUF_IOC_INFO	_IOR(VIRTIO_DMABUF_IOC_MAGIC, 0, struct virtio_dmabuf_ioc_info)
#define VIRTIO_DMABUF_IOC_LIST	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 1, struct virtio_dmabuf_ioc_list)
#define VIRTIO_DMABUF_IOC_OPEN	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 2, struct virtio_dmabuf_ioc_open)
#define VIRTIO_DMABUF_IOC_FENCE	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 3, struct virtio_dmabuf_ioc_fence)
#define VIRTIO_DMABUF_IOC_CANCEL _IOW(VIRTIO_DMABUF_IOC_MAGIC, 4, struct virtio_dmabuf_ioc_cancel)
#define VIRTIO_DMABUF_IOC_QUERY	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 5, struct virtio_dmabuf_ioc_query)
#define VIRTIO_DMABUF_IOC_HOLD	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 6, struct virtio_dmabuf_ioc_hold)
#define VIRTIO_DMABUF_IOC_RELEASE _IOW(VIRTIO_DMABUF_IOC_MAGIC, 7, struct virtio_dmabuf_ioc_release)
#define VIRTIO_DMABUF_IOC_PUBLISH _IOW(VIRTIO_DMABUF_IOC_MAGIC, 8, struct virtio_dmabuf_ioc_publish)
#define VIRTIO_DMABUF_IOC_WITHDRAW \
	_IOW(VIRTIO_DMABUF_IOC_MAGIC, 9, struct virtio_dmabuf_ioc_withdraw)
#define VIRTIO_DMABUF_IOC_STREAM_LIST	\
	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 10, struct virtio_dmabuf_ioc_list)
#define VIRTIO_DMABUF_IOC_STREAM_STATS	\
	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 11, struct virtio_dmabuf_ioc_stream_stats)
#define VIRTIO_DMABUF_IOC_STREAM_OPEN	\
	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 12, struct virtio_dmabuf_ioc_stream_open)
#define VIRTIO_DMABUF_IOC_STREAM_CREATE	\
	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 13, struct virtio_dmabuf_ioc_stream_create)
#define VIRTIO_DMABUF_IOC_REVOKE _IOW(VIRTIO_DMABUF_IOC_MAGIC, 19, struct virtio_dmabuf_ioc_revoke)

/* The ioctls of a consumer's file */
#define VIRTIO_DMABUF_IOC_STREAM_RELEASE	\
	_IOW(VIRTIO_DMABUF_IOC_MAGIC, 14, struct virtio_dmabuf_ioc_stream_release)
#define VIRTIO_DMABUF_IOC_STREAM_BUFFER	\
	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 15, struct virtio_dmabuf_ioc_stream_buffer)

/* The ioctls of a producer's file */
#define VIRTIO_DMABUF_IOC_STREAM_ADD	\
	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 16, struct virtio_dmabuf_ioc_stream_add)
#define VIRTIO_DMABUF_IOC_STREAM_QUEUE	\
	_IOWR(VIRTIO_DMABUF_IOC_MAGIC, 17, struct virtio_dmabuf_ioc_stream_queue)
#define VIRTIO_DMABUF_IOC_STREAM_RECLAIM	\
	_IOR(VIRTIO_DMABUF_IOC_MAGIC, 18, struct virtio_dmabuf_ioc_stream_reclaim)
#define VIRTIO_DMABUF_IOC_STREAM_REVOKE	\
	_IOW(VIRTIO_DMABUF_IOC_MAGIC, 20, struct virtio_dmabuf_ioc_stream_revoke)

#endif /* _UAPI_LINUX_VIRTIO_DMABUF_H */
