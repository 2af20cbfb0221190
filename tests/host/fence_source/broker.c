// SPDX-License-Identifier: GPL-2.0-only
/* The daemon's socket: requests that bring a dma-buf. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fence-source.h"

#define MESSAGE 512

int broker_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int broker = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (broker < 0 || strlen(path) >= sizeof(address.sun_path))
		return -EINVAL;
	strcpy(address.sun_path, path);
	return connect(broker, (struct sockaddr *)&address, sizeof(address)) ? -errno : broker;
}

/* What RELEASEs have said, oldest first; those that nobody asks for are dropped. */
static uint64_t released[64];
static unsigned int releases, releases_seen;

static void take_event(const char *bytes, size_t len)
{
	struct virtio_dmabuf_event event;

	if (len < sizeof(event))
		return;
	memcpy(&event, bytes, sizeof(event));
	if (event.kind == VIRTIO_DMABUF_EVENT_RELEASED)
		released[releases++ % 64] = event.value;
}

/* Receives the next reply, and what fd it has. */
static int receive(int broker, struct virtio_dmabuf_resp_hdr *head, void *body, size_t size, int *fd)
{
	char bytes[MESSAGE], control[CMSG_SPACE(sizeof(int))];
	struct iovec data = { bytes, sizeof(bytes) };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };
	struct cmsghdr *rights;
	ssize_t got;

	do {
		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		got = recvmsg(broker, &message, MSG_CMSG_CLOEXEC);
		if (got < (ssize_t)sizeof(*head))
			return got < 0 ? -errno : -EPIPE;
		memcpy(head, bytes, sizeof(*head));
		/* Events come in between; their first word has the top bit set. */
		if (head->op & 0x80000000U)
			take_event(bytes, got);
	} while (head->op & 0x80000000U);
	rights = CMSG_FIRSTHDR(&message);
	*fd = -1;
	if (rights && rights->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(rights), sizeof(*fd));
	got -= sizeof(*head);
	memcpy(body, bytes + sizeof(*head), (size_t)got < size ? (size_t)got : size);
	return -(int)head->status;
}

static int ask(int broker, uint32_t op, const void *body, size_t len, void *reply, size_t size,
	       int *fd)
{
	struct virtio_dmabuf_req_hdr request = { .op = op, .tag = op };
	struct virtio_dmabuf_resp_hdr head;
	char bytes[MESSAGE];

	memcpy(bytes, &request, sizeof(request));
	memcpy(bytes + sizeof(request), body, len);
	if (send(broker, bytes, sizeof(request) + len, 0) < 0)
		return -errno;
	return receive(broker, &head, reply, size, fd);
}

int broker_alloc(int broker, const char *heap, uint64_t size, const char *name, uint64_t *handle)
{
	struct virtio_dmabuf_alloc alloc = { .size = size };
	struct virtio_dmabuf_publish publish = { 0 };
	struct virtio_dmabuf_open_resp opened = { 0 };
	int dmabuf, none, err;

	if (strlen(heap) > sizeof(alloc.heap) || strlen(name) > sizeof(publish.name))
		return -EINVAL;
	memcpy(alloc.heap, heap, strlen(heap));
	err = ask(broker, VIRTIO_DMABUF_ALLOC, &alloc, sizeof(alloc), &opened, sizeof(opened),
		  &dmabuf);
	if (err)
		return err;
	publish.handle = *handle = opened.handle;
	memcpy(publish.name, name, strlen(name));
	err = ask(broker, VIRTIO_DMABUF_PUBLISH, &publish, sizeof(publish), &opened, sizeof(opened),
		  &none);
	if (!err)
		return dmabuf;
	close(dmabuf);
	return err;
}

static uint64_t stream;

int broker_stream(int broker, const char *name, uint64_t handle)
{
	struct virtio_dmabuf_stream_create create = { 0 };
	struct virtio_dmabuf_stream_create_resp created;
	struct virtio_dmabuf_stream_index_resp index;
	struct virtio_dmabuf_stream_add add = { .handle = handle };
	int none, err;

	if (strlen(name) > sizeof(create.name))
		return -EINVAL;
	memcpy(create.name, name, strlen(name));
	err = ask(broker, VIRTIO_DMABUF_STREAM_CREATE, &create, sizeof(create), &created,
		  sizeof(created), &none);
	if (err)
		return err;
	stream = add.stream = created.stream;
	return ask(broker, VIRTIO_DMABUF_STREAM_ADD, &add, sizeof(add), &index, sizeof(index), &none);
}

int broker_queue(int broker)
{
	struct virtio_dmabuf_stream_queue queue = {
		.stream = stream, .flags = VIRTIO_DMABUF_FRAME_FENCED,
	};
	struct virtio_dmabuf_stream_queue_resp queued = { 0 };
	int none, err = ask(broker, VIRTIO_DMABUF_STREAM_QUEUE, &queue, sizeof(queue), &queued,
			    sizeof(queued), &none);

	return err ? err : (int)queued.sequence;
}

int broker_open(int broker, const char *name)
{
	struct virtio_dmabuf_open open = { .flags = O_RDWR | O_CLOEXEC };
	struct virtio_dmabuf_open_resp opened;
	int dmabuf, err;

	if (strlen(name) > sizeof(open.name))
		return -EINVAL;
	memcpy(open.name, name, strlen(name));
	err = ask(broker, VIRTIO_DMABUF_OPEN, &open, sizeof(open), &opened, sizeof(opened), &dmabuf);
	return err ? err : dmabuf;
}

int broker_released(int broker, int ms, uint64_t *value)
{
	struct pollfd pfd = { .fd = broker, .events = POLLIN };
	char bytes[MESSAGE];
	ssize_t got;

	while (releases == releases_seen) {
		if (poll(&pfd, 1, ms) != 1)
			return -ETIMEDOUT;
		got = recv(broker, bytes, sizeof(bytes), 0);
		if (got <= 0)
			return -EPIPE;
		take_event(bytes, got);
	}
	*value = released[releases_seen++ % 64];
	return 0;
}
