// SPDX-License-Identifier: GPL-2.0-only
/* The daemon's socket: requests that bring a dma-buf. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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

int broker_alloc(int broker, const char *heap, uint64_t size, const char *name)
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
	publish.handle = opened.handle;
	memcpy(publish.name, name, strlen(name));
	err = ask(broker, VIRTIO_DMABUF_PUBLISH, &publish, sizeof(publish), &opened, sizeof(opened),
		  &none);
	if (!err)
		return dmabuf;
	close(dmabuf);
	return err;
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
