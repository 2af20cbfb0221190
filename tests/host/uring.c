// SPDX-License-Identifier: GPL-2.0-only
/* One read by io_uring, into plain memory or into a registered buffer. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "derive-check.h"

struct ring {
	int fd;
	struct io_uring_params params;
	uint8_t *rings;
	size_t rings_size;
	struct io_uring_sqe *sqes;
};

static int ring_open(struct ring *r)
{
	memset(r, 0, sizeof(*r));
	r->fd = syscall(SYS_io_uring_setup, 4, &r->params);
	if (r->fd < 0 || !(r->params.features & IORING_FEAT_SINGLE_MMAP))
		return NOT_TRIED;
	r->rings_size = r->params.sq_off.array + r->params.sq_entries * sizeof(uint32_t);
	if (r->rings_size < r->params.cq_off.cqes + r->params.cq_entries * sizeof(struct io_uring_cqe))
		r->rings_size = r->params.cq_off.cqes + r->params.cq_entries * sizeof(struct io_uring_cqe);
	r->rings = mmap(NULL, r->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
			IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, r->params.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
	return r->rings == MAP_FAILED || r->sqes == MAP_FAILED ? NOT_TRIED : 0;
}

static void ring_close(struct ring *r)
{
	munmap(r->rings, r->rings_size);
	munmap(r->sqes, r->params.sq_entries * sizeof(struct io_uring_sqe));
	close(r->fd);
}

/* Submits the first entry, and waits for its result: bytes or -errno. */
static int ring_run(struct ring *r)
{
	_Atomic uint32_t *tail = (_Atomic uint32_t *)(r->rings + r->params.sq_off.tail);
	uint32_t *array = (uint32_t *)(r->rings + r->params.sq_off.array);
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)(r->rings + r->params.cq_off.cqes);

	array[0] = 0;
	atomic_store(tail, 1);
	if (syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return -errno;
	return cqes[0].res;
}

static int read_one(struct ring *r, int file, uint8_t *map, bool fixed)
{
	struct iovec buffer = { map, SIZE };
	int got;

	if (fixed && syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, &buffer, 1))
		return errno;
	memset(&r->sqes[0], 0, sizeof(r->sqes[0]));
	r->sqes[0].opcode = fixed ? IORING_OP_READ_FIXED : IORING_OP_READ;
	r->sqes[0].fd = file;
	r->sqes[0].addr = (uintptr_t)map;
	r->sqes[0].len = 1;
	got = ring_run(r);
	return got < 0 ? -got : 0;
}

int uring_read(uint8_t *map, bool fixed)
{
	int file = memfd_create("bytes", MFD_CLOEXEC), err;
	uint8_t byte = ATTACK_BYTE;
	struct ring ring;

	if (file < 0 || pwrite(file, &byte, 1, 0) != 1)
		return NOT_TRIED;
	err = ring_open(&ring) ?: read_one(&ring, file, map, fixed);
	if (ring.fd >= 0)
		ring_close(&ring);
	close(file);
	return err;
}
