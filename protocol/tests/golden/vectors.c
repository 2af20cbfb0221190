// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
/*
 * The golden vectors, built from the C header: prints one line "NAME HEX" for
 * each, and one line "layout STRUCT.FIELD OFFSET SIZE" for each field.
 */
#include <endian.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include "virtio_dmabuf.h"

#define L32(value) htole32(value)
#define L64(value) htole64(value)
#define HANDLE 0x300000002ULL
#define MAPPING 0x100000005ULL
#define WAIT_TAG 0x8877665544332211ULL
#define RELEASE_VALUE 0x0102030405060708ULL
#define STREAM 0x200000001ULL
#define SEQUENCE 0x11223344ULL
#define TIMESTAMP 123456789012ULL
#define MIB (1ULL << 20)

/* What an ioctl's number is made of: the same on every architecture, for all time. */
#define IOC_SIZE(type, size) \
	_Static_assert(sizeof(struct virtio_dmabuf_ioc_##type) == (size), #type)
IOC_SIZE(info, 120);
IOC_SIZE(format, 56);
IOC_SIZE(buffer, 152);
IOC_SIZE(list, 32);
IOC_SIZE(open, 88);
IOC_SIZE(event, 96);
IOC_SIZE(fence, 24);
IOC_SIZE(cancel, 8);
IOC_SIZE(query, 24);
IOC_SIZE(hold, 16);
IOC_SIZE(release, 16);
IOC_SIZE(publish, 128);
IOC_SIZE(withdraw, 64);
IOC_SIZE(revoke, 16);
IOC_SIZE(stream_info, 144);
IOC_SIZE(consumer, 112);
IOC_SIZE(stream_stats, 112);
IOC_SIZE(stream_open, 160);
IOC_SIZE(frame, 40);
IOC_SIZE(stream_release, 8);
IOC_SIZE(stream_buffer, 24);
IOC_SIZE(stream_create, 136);
IOC_SIZE(stream_add, 8);
IOC_SIZE(stream_queue, 24);
IOC_SIZE(stream_reclaim, 8);
IOC_SIZE(stream_revoke, 8);

static const __u8 uuid[16] = {
	0x5f, 0x0c, 0x1f, 0x6e, 0x93, 0xa1, 0x4f, 0x0e,
	0x8f, 0x5a, 0x0d, 0x5b, 0x2c, 0x1a, 0x7e, 0x10,
};

static void hex(const void *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		printf("%02x", ((const unsigned char *)bytes)[i]);
}

static void plain(const char *name, const void *bytes, size_t len)
{
	printf("%s ", name);
	hex(bytes, len);
	putchar('\n');
}

static void request(const char *name, __u32 op, __u64 tag, const void *body,
		    size_t len)
{
	struct virtio_dmabuf_req_hdr header = { .op = L32(op), .tag = L64(tag) };

	printf("%s ", name);
	hex(&header, sizeof(header));
	hex(body, len);
	putchar('\n');
}

static void reply(const char *name, __u32 op, __u64 tag, __u32 status,
		  const void *body, size_t len)
{
	struct virtio_dmabuf_resp_hdr header = {
		.op = L32(op), .status = L32(status), .tag = L64(tag),
	};

	printf("%s ", name);
	hex(&header, sizeof(header));
	hex(body, len);
	putchar('\n');
}

#define REQUEST(name, op, tag, body) \
	request(name, VIRTIO_DMABUF_##op, tag, &(body), sizeof(body))
#define REPLY(name, op, tag, body) \
	reply(name, VIRTIO_DMABUF_##op, tag, 0, &(body), sizeof(body))

static void set_format(struct virtio_dmabuf_format *format)
{
	memcpy(&format->fourcc, "NV12", 4);
	format->width = L32(1280);
	format->height = L32(720);
	format->num_planes = L32(2);
	format->offset[1] = L32(921600);
	format->stride[0] = L32(1280);
	format->stride[1] = L32(1280);
}

static void set_front(struct virtio_dmabuf_buffer *buffer)
{
	buffer->id = L64(7);
	buffer->size = L64(2 * MIB);
	buffer->access = L32(VIRTIO_DMABUF_RDONLY);
	buffer->enforcement = L32(VIRTIO_DMABUF_ENFORCE_SEALED);
	buffer->heap = L32(VIRTIO_DMABUF_HEAP_UDMABUF);
	buffer->flags = L32(VIRTIO_DMABUF_BUFFER_STATIC);
	set_format(&buffer->format);
	strcpy((char *)buffer->name, "front-camera/0");
}

static void fixed(void)
{
	struct virtio_dmabuf_config config = {
		.version = L32(VIRTIO_DMABUF_VERSION),
		.windows = L32(VIRTIO_DMABUF_WINDOW_BIT_DYNAMIC |
			       VIRTIO_DMABUF_WINDOW_BIT_STATIC),
		.window_size = L64(64 * MIB),
		.max_handles = L32(256),
		.max_mappings = L32(128),
		.max_inflight = L32(64),
		.num_static = L32(2),
	};
	struct virtio_dmabuf_window window = {
		.version = L32(VIRTIO_DMABUF_VERSION),
		.size = L64(16 * MIB),
		.first_slot = L64(VIRTIO_DMABUF_PAGE_SIZE),
		.slot_size = L64(2 * MIB),
		.slots = L32(4),
	};
	struct virtio_dmabuf_event event = {
		.kind = L32(VIRTIO_DMABUF_EVENT_ADDED),
		.sequence = L64(1),
		.buffer = L64(7),
		.name = "front-camera/0",
	};

	memcpy(config.magic, VIRTIO_DMABUF_CONFIG_MAGIC, sizeof(config.magic));
	memcpy(config.uuid, uuid, sizeof(config.uuid));
	plain("config", &config, sizeof(config));
	memcpy(window.magic, VIRTIO_DMABUF_WINDOW_MAGIC, sizeof(window.magic));
	memcpy(window.uuid, uuid, sizeof(window.uuid));
	plain("window", &window, sizeof(window));
	plain("event.added", &event, sizeof(event));
	event.kind = L32(VIRTIO_DMABUF_EVENT_WITHDRAWN);
	event.sequence = L64(2);
	plain("event.withdrawn", &event, sizeof(event));
	event.kind = L32(VIRTIO_DMABUF_EVENT_RELEASED);
	event.sequence = L64(3);
	event.value = L64(RELEASE_VALUE);
	plain("event.released", &event, sizeof(event));
	event.kind = L32(VIRTIO_DMABUF_EVENT_REVOKED);
	event.sequence = L64(4);
	event.value = L64(1500);
	plain("event.revoked", &event, sizeof(event));
	event.kind = L32(VIRTIO_DMABUF_EVENT_FREE);
	event.sequence = L64(5);
	event.value = L64(VIRTIO_DMABUF_FREE_SHARED);
	memset(event.name, 0, sizeof(event.name));
	plain("event.free", &event, sizeof(event));
}

static void look(void)
{
	struct virtio_dmabuf_info_resp info = {
		.version = L32(VIRTIO_DMABUF_VERSION),
		.windows = L32(VIRTIO_DMABUF_WINDOW_BIT_DYNAMIC |
			       VIRTIO_DMABUF_WINDOW_BIT_STATIC),
		.window_size = L64(64 * MIB),
		.max_handles = L32(256),
		.max_mappings = L32(128),
		.max_inflight = L32(64),
		.handles = L32(3),
		.mappings = L32(2),
		.probe = L32(1),
		.name = "cluster",
	};
	struct virtio_dmabuf_list list = { .cursor = L64(6), .max = L32(2) };
	struct {
		struct virtio_dmabuf_list_resp head;
		struct virtio_dmabuf_buffer entries[2];
	} page = {
		.head = { .count = L32(2), .next = L64(9) },
		.entries[1] = {
			.id = L64(9),
			.size = L64(65536),
			.access = L32(VIRTIO_DMABUF_RDWR),
			.enforcement = L32(VIRTIO_DMABUF_ENFORCE_NONE),
			.heap = L32(VIRTIO_DMABUF_HEAP_DMA_HEAP),
			.name = "scratch",
		},
	};

	struct {
		struct virtio_dmabuf_list_resp head;
		struct virtio_dmabuf_peer_usage peer;
	} usage = {
		.head = { .count = L32(1), .next = L64(9) },
		.peer = {
			.name = "cluster",
			.kind = L32(VIRTIO_DMABUF_PEER_VM),
			.sessions = L32(1),
			.per_session = L32(0x1f),
		},
	};

	for (int n = 0; n < VIRTIO_DMABUF_USES; n++) {
		usage.peer.uses[n].used = L64(n);
		usage.peer.uses[n].limit = L64(256 + n);
	}
	set_front(&page.entries[0]);
	request("get_info.request", VIRTIO_DMABUF_GET_INFO,
		0x1122334455667788ULL, NULL, 0);
	REPLY("get_info.reply", GET_INFO, 0x1122334455667788ULL, info);
	REQUEST("list.request", LIST, 2, list);
	REPLY("list.reply", LIST, 2, page);
	REQUEST("get_usage.request", GET_USAGE, 31, list);
	REPLY("get_usage.reply", GET_USAGE, 31, usage);
}

static void handles(void)
{
	struct virtio_dmabuf_open open = {
		.name = "front-camera/0",
		.flags = L32(VIRTIO_DMABUF_RDONLY | VIRTIO_DMABUF_CLOEXEC),
		.enforcement = L32(VIRTIO_DMABUF_ENFORCE_SEALED),
	};
	struct virtio_dmabuf_open_resp opened = {
		.handle = L64(HANDLE), .fd_offset = L64(2 * MIB + 4096),
	};
	struct virtio_dmabuf_close close = { .handle = L64(HANDLE) };
	struct virtio_dmabuf_derive derive = {
		.handle = L64(HANDLE),
		.flags = L32(VIRTIO_DMABUF_RDONLY),
		.enforcement = L32(VIRTIO_DMABUF_ENFORCE_DERIVED),
	};
	struct virtio_dmabuf_open_resp derived = {
		.handle = L64(0x100000003ULL),
		.buffer = {
			.id = L64(10),
			.size = L64(4096),
			.enforcement = L32(VIRTIO_DMABUF_ENFORCE_DERIVED),
			.heap = L32(VIRTIO_DMABUF_HEAP_IMPORTED),
		},
	};

	set_front(&opened.buffer);
	REQUEST("open.request", OPEN, 3, open);
	REPLY("open.reply", OPEN, 3, opened);
	reply("open.refused", VIRTIO_DMABUF_OPEN, 3, 13, NULL, 0);
	REQUEST("close.request", CLOSE, 4, close);
	reply("close.reply", VIRTIO_DMABUF_CLOSE, 4, 0, NULL, 0);
	REQUEST("derive.request", DERIVE, 8, derive);
	REPLY("derive.reply", DERIVE, 8, derived);
}

static void mappings(void)
{
	struct virtio_dmabuf_map map = {
		.handle = L64(HANDLE),
		.offset = L64(4096),
		.length = L64(12288),
		.access = L32(VIRTIO_DMABUF_RDONLY),
	};
	struct virtio_dmabuf_map_resp in_static = {
		.mapping = L64(MAPPING),
		.window_offset = L64(0x202000),
		.length = L64(12288),
		.access = L32(VIRTIO_DMABUF_RDONLY),
		.enforcement = L32(VIRTIO_DMABUF_ENFORCE_SEALED),
		.caching = L32(VIRTIO_DMABUF_CACHE_CACHED),
		.window = L32(VIRTIO_DMABUF_WINDOW_STATIC),
	};
	struct virtio_dmabuf_map_resp in_dynamic = {
		.mapping = L64(MAPPING),
		.window_offset = L64(MIB),
		.length = L64(65536),
		.access = L32(VIRTIO_DMABUF_RDWR),
		.enforcement = L32(VIRTIO_DMABUF_ENFORCE_NONE),
		.caching = L32(VIRTIO_DMABUF_CACHE_CACHED),
		.window = L32(VIRTIO_DMABUF_WINDOW_DYNAMIC),
	};
	struct virtio_dmabuf_unmap unmap = { .mapping = L64(MAPPING) };

	memcpy(in_static.uuid, uuid, sizeof(uuid));
	REQUEST("map.request", MAP, 5, map);
	REPLY("map.static.reply", MAP, 5, in_static);
	REPLY("map.dynamic.reply", MAP, 6, in_dynamic);
	REQUEST("unmap.request", UNMAP, 7, unmap);
	reply("unmap.reply", VIRTIO_DMABUF_UNMAP, 7, 116, NULL, 0);
}

static void producer(void)
{
	struct virtio_dmabuf_alloc alloc = {
		.heap = "camera", .size = L64(1382400),
	};
	struct virtio_dmabuf_import import = {
		.name = "decoder/out", .flags = L64(VIRTIO_DMABUF_PUBLISH_KEEP),
	};
	struct virtio_dmabuf_publish publish = { .handle = L64(HANDLE) };
	struct virtio_dmabuf_withdraw withdraw = { .name = "front-camera/0" };
	struct virtio_dmabuf_revoke revoke = {
		.deadline_ms = L32(1500), .name = "front-camera/0",
	};
	struct virtio_dmabuf_heap_list which = { .index = L32(1) };
	struct virtio_dmabuf_heap_list_resp heap = {
		.name = "camera",
		.max_size = L64(2 * MIB),
		.kind = L32(VIRTIO_DMABUF_HEAP_UDMABUF),
		.count = L32(2),
	};

	memset(publish.name, 'n', sizeof(publish.name) - 1);
	publish.name[sizeof(publish.name) - 1] = '/';
	set_format(&publish.format);
	REQUEST("alloc.request", ALLOC, 9, alloc);
	REQUEST("import.request", IMPORT, 10, import);
	REQUEST("publish.request", PUBLISH, 11, publish);
	REQUEST("withdraw.request", WITHDRAW, 12, withdraw);
	REQUEST("heap_list.request", HEAP_LIST, 13, which);
	REPLY("heap_list.reply", HEAP_LIST, 13, heap);
	REQUEST("revoke.request", REVOKE, 31, revoke);
}

static void syncs(void)
{
	struct virtio_dmabuf_sync start = {
		.handle = L64(HANDLE), .flags = L32(VIRTIO_DMABUF_USAGE_READ),
	};
	struct virtio_dmabuf_sync_resp started = { .open = L32(2) };
	struct virtio_dmabuf_sync end = {
		.handle = L64(HANDLE),
		.flags = L32(VIRTIO_DMABUF_USAGE_READ |
			     VIRTIO_DMABUF_USAGE_WRITE),
	};
	struct virtio_dmabuf_sync_resp ended = {
		.flags = L32(VIRTIO_DMABUF_NO_DMA_BUF), .open = L32(1),
	};

	REQUEST("sync_start.request", SYNC_START, 13, start);
	REPLY("sync_start.reply", SYNC_START, 13, started);
	REQUEST("sync_end.request", SYNC_END, 14, end);
	REPLY("sync_end.reply", SYNC_END, 14, ended);
}

static void fences(void)
{
	struct virtio_dmabuf_fence_wait wait = {
		.handle = L64(HANDLE),
		.usage = L32(VIRTIO_DMABUF_USAGE_READ),
		.timeout_ms = L32(1500),
	};
	struct virtio_dmabuf_fence_wait_resp waited = {
		.fences = L32(3), .timestamp_ns = L64(123456789012ULL),
	};
	struct virtio_dmabuf_fence_cancel cancel = { .tag = L64(WAIT_TAG) };
	struct virtio_dmabuf_fence_query query = {
		.handle = L64(HANDLE),
		.usage = L32(VIRTIO_DMABUF_USAGE_WRITE),
	};
	struct virtio_dmabuf_fence_query_resp failed = {
		.fences = L32(2),
		.state = L32(VIRTIO_DMABUF_FENCE_FAILED),
		.error = L32(5),
	};

	REQUEST("fence_wait.request", FENCE_WAIT, WAIT_TAG, wait);
	REPLY("fence_wait.reply", FENCE_WAIT, WAIT_TAG, waited);
	reply("fence_wait.cancelled", VIRTIO_DMABUF_FENCE_WAIT, WAIT_TAG, 125,
	      NULL, 0);
	reply("fence_wait.orphaned", VIRTIO_DMABUF_FENCE_WAIT, WAIT_TAG, 130,
	      NULL, 0);
	REQUEST("fence_cancel.request", FENCE_CANCEL, 15, cancel);
	reply("fence_cancel.reply", VIRTIO_DMABUF_FENCE_CANCEL, 15, 0, NULL, 0);
	REQUEST("fence_query.request", FENCE_QUERY, 16, query);
	REPLY("fence_query.reply", FENCE_QUERY, 16, failed);
}

static void releases(void)
{
	struct virtio_dmabuf_release release = {
		.handle = L64(HANDLE), .value = L64(RELEASE_VALUE),
	};
	struct virtio_dmabuf_hold hold = {
		.handle = L64(HANDLE),
		.usage = L32(VIRTIO_DMABUF_USAGE_READ),
		.timeout_ms = L32(20000),
	};
	struct virtio_dmabuf_hold_resp held = { .timeout_ms = L32(5000) };

	REQUEST("release.request", RELEASE, 17, release);
	reply("release.reply", VIRTIO_DMABUF_RELEASE, 17, 0, NULL, 0);
	REQUEST("hold.request", HOLD, 18, hold);
	REPLY("hold.reply", HOLD, 18, held);
}

#define FIELD(type, field) \
	printf("layout " #type "." #field " %zu %zu\n", \
	       offsetof(struct virtio_dmabuf_##type, field), \
	       sizeof(((struct virtio_dmabuf_##type *)0)->field))
#define SIZE(type) \
	printf("layout " #type " 0 %zu\n", sizeof(struct virtio_dmabuf_##type))

static void layout(void)
{
	SIZE(config);
	FIELD(config, magic);
	FIELD(config, version);
	FIELD(config, windows);
	FIELD(config, window_size);
	FIELD(config, uuid);
	FIELD(config, max_handles);
	FIELD(config, max_mappings);
	FIELD(config, max_inflight);
	FIELD(config, num_static);
	FIELD(config, reserved);
	SIZE(window);
	FIELD(window, magic);
	FIELD(window, version);
	FIELD(window, reserved);
	FIELD(window, uuid);
	FIELD(window, size);
	FIELD(window, first_slot);
	FIELD(window, slot_size);
	FIELD(window, slots);
	FIELD(window, reserved2);
	SIZE(req_hdr);
	FIELD(req_hdr, op);
	FIELD(req_hdr, reserved);
	FIELD(req_hdr, tag);
	SIZE(resp_hdr);
	FIELD(resp_hdr, op);
	FIELD(resp_hdr, status);
	FIELD(resp_hdr, tag);
	SIZE(format);
	FIELD(format, fourcc);
	FIELD(format, width);
	FIELD(format, height);
	FIELD(format, num_planes);
	FIELD(format, modifier);
	FIELD(format, offset);
	FIELD(format, stride);
	FIELD(format, reserved);
	SIZE(buffer);
	FIELD(buffer, id);
	FIELD(buffer, size);
	FIELD(buffer, access);
	FIELD(buffer, enforcement);
	FIELD(buffer, heap);
	FIELD(buffer, flags);
	FIELD(buffer, format);
	FIELD(buffer, name);
	SIZE(info_resp);
	FIELD(info_resp, version);
	FIELD(info_resp, windows);
	FIELD(info_resp, window_size);
	FIELD(info_resp, max_handles);
	FIELD(info_resp, max_mappings);
	FIELD(info_resp, max_inflight);
	FIELD(info_resp, handles);
	FIELD(info_resp, mappings);
	FIELD(info_resp, probe);
	FIELD(info_resp, reserved);
	FIELD(info_resp, name);
	SIZE(list);
	FIELD(list, cursor);
	FIELD(list, max);
	FIELD(list, reserved);
	SIZE(list_resp);
	FIELD(list_resp, count);
	FIELD(list_resp, reserved);
	FIELD(list_resp, next);
	SIZE(open);
	FIELD(open, name);
	FIELD(open, flags);
	FIELD(open, enforcement);
	SIZE(open_resp);
	FIELD(open_resp, handle);
	FIELD(open_resp, fd_offset);
	FIELD(open_resp, buffer);
	SIZE(close);
	FIELD(close, handle);
	SIZE(map);
	FIELD(map, handle);
	FIELD(map, offset);
	FIELD(map, length);
	FIELD(map, access);
	FIELD(map, reserved);
	SIZE(map_resp);
	FIELD(map_resp, mapping);
	FIELD(map_resp, window_offset);
	FIELD(map_resp, length);
	FIELD(map_resp, access);
	FIELD(map_resp, enforcement);
	FIELD(map_resp, caching);
	FIELD(map_resp, window);
	FIELD(map_resp, uuid);
	FIELD(map_resp, reserved);
	SIZE(unmap);
	FIELD(unmap, mapping);
	SIZE(derive);
	FIELD(derive, handle);
	FIELD(derive, flags);
	FIELD(derive, enforcement);
	SIZE(use);
	FIELD(use, used);
	FIELD(use, limit);
	SIZE(peer_usage);
	FIELD(peer_usage, name);
	FIELD(peer_usage, kind);
	FIELD(peer_usage, sessions);
	FIELD(peer_usage, per_session);
	FIELD(peer_usage, reserved);
	FIELD(peer_usage, uses);
	SIZE(alloc);
	FIELD(alloc, heap);
	FIELD(alloc, size);
	FIELD(alloc, flags);
	SIZE(import);
	FIELD(import, name);
	FIELD(import, flags);
	FIELD(import, format);
	SIZE(publish);
	FIELD(publish, handle);
	FIELD(publish, flags);
	FIELD(publish, name);
	FIELD(publish, format);
	SIZE(withdraw);
	FIELD(withdraw, name);
	SIZE(revoke);
	FIELD(revoke, handle);
	FIELD(revoke, deadline_ms);
	FIELD(revoke, reserved);
	FIELD(revoke, name);
	SIZE(heap_list);
	FIELD(heap_list, index);
	FIELD(heap_list, reserved);
	SIZE(heap_list_resp);
	FIELD(heap_list_resp, name);
	FIELD(heap_list_resp, max_size);
	FIELD(heap_list_resp, kind);
	FIELD(heap_list_resp, count);
	FIELD(heap_list_resp, reserved);
	SIZE(event);
	FIELD(event, kind);
	FIELD(event, reserved);
	FIELD(event, sequence);
	FIELD(event, buffer);
	FIELD(event, value);
	FIELD(event, name);
}

static void fence_layout(void)
{
	SIZE(sync);
	FIELD(sync, handle);
	FIELD(sync, flags);
	FIELD(sync, reserved);
	SIZE(sync_resp);
	FIELD(sync_resp, flags);
	FIELD(sync_resp, open);
	SIZE(fence_wait);
	FIELD(fence_wait, handle);
	FIELD(fence_wait, usage);
	FIELD(fence_wait, timeout_ms);
	SIZE(fence_wait_resp);
	FIELD(fence_wait_resp, flags);
	FIELD(fence_wait_resp, fences);
	FIELD(fence_wait_resp, timestamp_ns);
	SIZE(fence_cancel);
	FIELD(fence_cancel, tag);
	SIZE(fence_query);
	FIELD(fence_query, handle);
	FIELD(fence_query, usage);
	FIELD(fence_query, reserved);
	SIZE(fence_query_resp);
	FIELD(fence_query_resp, flags);
	FIELD(fence_query_resp, fences);
	FIELD(fence_query_resp, state);
	FIELD(fence_query_resp, error);
	SIZE(release);
	FIELD(release, handle);
	FIELD(release, value);
	SIZE(hold);
	FIELD(hold, handle);
	FIELD(hold, usage);
	FIELD(hold, timeout_ms);
	SIZE(hold_resp);
	FIELD(hold_resp, timeout_ms);
	FIELD(hold_resp, reserved);
}

static void stream_consumer(void)
{
	struct virtio_dmabuf_stream end = { .stream = L64(STREAM) };
	struct virtio_dmabuf_stream_open open = {
		.name = "front", .mode = L32(VIRTIO_DMABUF_MODE_FIFO),
		.depth = L32(4), .hold_ms = L32(250),
	};
	struct virtio_dmabuf_stream_open_resp opened = {
		.stream = L64(STREAM), .buffers = L32(5), .hold_ms = L32(250),
		.max_held = L32(2), .id = L64(9),
	};
	struct virtio_dmabuf_stream_buffer buffer = {
		.stream = L64(STREAM), .index = L32(3),
		.enforcement = L32(VIRTIO_DMABUF_ENFORCE_DERIVED),
	};
	struct virtio_dmabuf_frame_resp frame = {
		.sequence = L64(SEQUENCE), .timestamp_ns = L64(TIMESTAMP),
		.skipped = L64(17), .index = L32(3),
		.flags = L32(VIRTIO_DMABUF_FRAME_FENCED), .hold_ms = L32(250),
		.ready = L32(1),
	};
	struct virtio_dmabuf_stream_release release = {
		.stream = L64(STREAM), .sequence = L64(SEQUENCE),
	};

	set_format(&opened.format);
	request("stream_open.request", VIRTIO_DMABUF_STREAM_OPEN, 20, &open, sizeof(open));
	reply("stream_open.reply", VIRTIO_DMABUF_STREAM_OPEN, 20, 0, &opened, sizeof(opened));
	request("stream_close.request", VIRTIO_DMABUF_STREAM_CLOSE, 21, &end, sizeof(end));
	request("stream_buffer.request", VIRTIO_DMABUF_STREAM_BUFFER, 22, &buffer,
		sizeof(buffer));
	request("stream_acquire.request", VIRTIO_DMABUF_STREAM_ACQUIRE, 23, &end, sizeof(end));
	reply("stream_acquire.reply", VIRTIO_DMABUF_STREAM_ACQUIRE, 23, 0, &frame,
	      sizeof(frame));
	reply("stream_acquire.empty", VIRTIO_DMABUF_STREAM_ACQUIRE, 23, 11, NULL, 0);
	request("stream_release.request", VIRTIO_DMABUF_STREAM_RELEASE, 24, &release,
		sizeof(release));
}

static void stream_lists(void)
{
	struct virtio_dmabuf_stream_stats ask = { .name = "front", .cursor = L32(2) };
	struct {
		struct virtio_dmabuf_stream_stats_resp head;
		struct virtio_dmabuf_consumer entry;
	} stats = {
		.head = {
			.produced = L64(1000), .buffers = L32(5),
			.with_producer = L32(1), .free = L32(2),
			.consumers = L32(3), .count = L32(1),
		},
		.entry = {
			.peer = "cluster", .mode = L32(VIRTIO_DMABUF_MODE_LATEST),
			.joined = L64(100), .delivered = L64(880),
			.skipped = L64(19), .expired = L64(4),
			.ready = L32(1), .held = L32(2),
		},
	};
	struct virtio_dmabuf_list list = { .cursor = L64(8), .max = L32(1) };
	struct {
		struct virtio_dmabuf_list_resp head;
		struct virtio_dmabuf_stream_info entry;
	} listed = {
		.head = { .count = L32(1), .next = L64(9) },
		.entry = {
			.id = L64(9), .produced = L64(1000), .buffers = L32(5),
			.consumers = L32(3), .name = "front",
		},
	};

	set_format(&listed.entry.format);
	request("stream_stats.request", VIRTIO_DMABUF_STREAM_STATS, 25, &ask, sizeof(ask));
	reply("stream_stats.reply", VIRTIO_DMABUF_STREAM_STATS, 25, 0, &stats, sizeof(stats));
	request("stream_list.request", VIRTIO_DMABUF_STREAM_LIST, 26, &list, sizeof(list));
	reply("stream_list.reply", VIRTIO_DMABUF_STREAM_LIST, 26, 0, &listed, sizeof(listed));
}

static void stream_producer(void)
{
	struct virtio_dmabuf_stream end = { .stream = L64(STREAM) };
	struct virtio_dmabuf_stream_create create = { .name = "front" };
	struct virtio_dmabuf_stream_create_resp created = {
		.stream = L64(STREAM), .id = L64(9),
	};
	struct virtio_dmabuf_stream_add add = {
		.stream = L64(STREAM), .handle = L64(HANDLE),
	};
	struct virtio_dmabuf_stream_index_resp index = { .index = L32(3) };
	struct virtio_dmabuf_stream_queue queue = {
		.stream = L64(STREAM), .timestamp_ns = L64(TIMESTAMP),
		.index = L32(3), .flags = L32(VIRTIO_DMABUF_FRAME_FENCED),
	};
	struct virtio_dmabuf_stream_queue_resp queued = { .sequence = L64(SEQUENCE) };
	struct virtio_dmabuf_stream_revoke revoke = {
		.stream = L64(STREAM), .deadline_ms = L32(250),
	};

	set_format(&create.format);
	request("stream_create.request", VIRTIO_DMABUF_STREAM_CREATE, 27, &create,
		sizeof(create));
	reply("stream_create.reply", VIRTIO_DMABUF_STREAM_CREATE, 27, 0, &created,
	      sizeof(created));
	request("stream_add.request", VIRTIO_DMABUF_STREAM_ADD, 28, &add, sizeof(add));
	reply("stream_add.reply", VIRTIO_DMABUF_STREAM_ADD, 28, 0, &index, sizeof(index));
	request("stream_queue.request", VIRTIO_DMABUF_STREAM_QUEUE, 29, &queue, sizeof(queue));
	reply("stream_queue.reply", VIRTIO_DMABUF_STREAM_QUEUE, 29, 0, &queued, sizeof(queued));
	request("stream_reclaim.request", VIRTIO_DMABUF_STREAM_RECLAIM, 30, &end, sizeof(end));
	reply("stream_reclaim.reply", VIRTIO_DMABUF_STREAM_RECLAIM, 30, 0, &index,
	      sizeof(index));
	request("stream_revoke.request", VIRTIO_DMABUF_STREAM_REVOKE, 32, &revoke,
		sizeof(revoke));
}

static void stream_event(const char *name, __u32 kind, __u64 sequence, __u64 about)
{
	struct virtio_dmabuf_event event = {
		.kind = L32(kind), .sequence = L64(sequence),
		.buffer = L64(about), .name = "front",
	};

	plain(name, &event, sizeof(event));
}

static void stream_events(void)
{
	stream_event("event.frame", VIRTIO_DMABUF_EVENT_FRAME, 4, STREAM);
	stream_event("event.stream_withdrawn", VIRTIO_DMABUF_EVENT_STREAM_WITHDRAWN, 5, STREAM);
	stream_event("event.stream_added", VIRTIO_DMABUF_EVENT_STREAM_ADDED, 6, 9);
	stream_event("event.stream_free", VIRTIO_DMABUF_EVENT_STREAM_FREE, 7, STREAM);
}

static void stream_layout(void)
{
	SIZE(stream_revoke);
	FIELD(stream_revoke, stream);
	FIELD(stream_revoke, deadline_ms);
	FIELD(stream_revoke, reserved);
	SIZE(stream_open);
	FIELD(stream_open, name);
	FIELD(stream_open, mode);
	FIELD(stream_open, depth);
	FIELD(stream_open, hold_ms);
	FIELD(stream_open, reserved);
	SIZE(stream_open_resp);
	FIELD(stream_open_resp, stream);
	FIELD(stream_open_resp, buffers);
	FIELD(stream_open_resp, hold_ms);
	FIELD(stream_open_resp, max_held);
	FIELD(stream_open_resp, reserved);
	FIELD(stream_open_resp, id);
	FIELD(stream_open_resp, format);
	SIZE(stream);
	FIELD(stream, stream);
	SIZE(stream_buffer);
	FIELD(stream_buffer, stream);
	FIELD(stream_buffer, index);
	FIELD(stream_buffer, enforcement);
	SIZE(frame_resp);
	FIELD(frame_resp, sequence);
	FIELD(frame_resp, timestamp_ns);
	FIELD(frame_resp, skipped);
	FIELD(frame_resp, index);
	FIELD(frame_resp, flags);
	FIELD(frame_resp, hold_ms);
	FIELD(frame_resp, ready);
	SIZE(stream_release);
	FIELD(stream_release, stream);
	FIELD(stream_release, sequence);
	SIZE(stream_stats);
	FIELD(stream_stats, name);
	FIELD(stream_stats, cursor);
	FIELD(stream_stats, reserved);
	SIZE(stream_stats_resp);
	FIELD(stream_stats_resp, produced);
	FIELD(stream_stats_resp, buffers);
	FIELD(stream_stats_resp, with_producer);
	FIELD(stream_stats_resp, free);
	FIELD(stream_stats_resp, consumers);
	FIELD(stream_stats_resp, count);
	FIELD(stream_stats_resp, next);
	FIELD(stream_stats_resp, reserved);
	SIZE(consumer);
	FIELD(consumer, peer);
	FIELD(consumer, mode);
	FIELD(consumer, depth);
	FIELD(consumer, joined);
	FIELD(consumer, delivered);
	FIELD(consumer, skipped);
	FIELD(consumer, expired);
	FIELD(consumer, ready);
	FIELD(consumer, held);
	SIZE(stream_info);
	FIELD(stream_info, id);
	FIELD(stream_info, produced);
	FIELD(stream_info, buffers);
	FIELD(stream_info, consumers);
	FIELD(stream_info, reserved);
	FIELD(stream_info, format);
	FIELD(stream_info, name);
	SIZE(stream_create);
	FIELD(stream_create, name);
	FIELD(stream_create, flags);
	FIELD(stream_create, format);
	SIZE(stream_create_resp);
	FIELD(stream_create_resp, stream);
	FIELD(stream_create_resp, id);
	SIZE(stream_add);
	FIELD(stream_add, stream);
	FIELD(stream_add, handle);
	SIZE(stream_index_resp);
	FIELD(stream_index_resp, index);
	FIELD(stream_index_resp, reserved);
	SIZE(stream_queue);
	FIELD(stream_queue, stream);
	FIELD(stream_queue, timestamp_ns);
	FIELD(stream_queue, index);
	FIELD(stream_queue, flags);
	SIZE(stream_queue_resp);
	FIELD(stream_queue_resp, sequence);
}

int main(void)
{
	fixed();
	look();
	handles();
	mappings();
	producer();
	syncs();
	fences();
	releases();
	stream_consumer();
	stream_lists();
	stream_producer();
	stream_events();
	layout();
	fence_layout();
	stream_layout();
	return 0;
}
