// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writing by mappings of the fd, and around the protection of a read-only one:
 * everything by which the kernel writes to a process' memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attack.h"

#define PAGE	4096

static const char evil[16] = "ATTACKEDATTACKED";

static int map_and_store(const struct target *t, int prot, int flags)
{
	volatile uint8_t *map = mmap(NULL, t->size, prot, flags, t->fd, t->offset);

	if (map == MAP_FAILED)
		return -errno;
	map[0] = 0xa5;
	return 0;
}

static int mmap_shared_write(const struct target *t)
{
	return map_and_store(t, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static int mmap_write_only(const struct target *t)
{
	return map_and_store(t, PROT_WRITE, MAP_SHARED);
}

static int mmap_shared_validate(const struct target *t)
{
	return map_and_store(t, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE);
}

static int mmap_private_write(const struct target *t)
{
	return map_and_store(t, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static int store_to_readonly(const struct target *t)
{
	volatile uint8_t *map = map_ro(t);

	if (!map)
		return -errno;
	map[0] = 0xa5;
	return 0;
}

static int protect_and_store(uint8_t *map, size_t size)
{
	if (mprotect(map, size, PROT_READ | PROT_WRITE))
		return -errno;
	*(volatile uint8_t *)map = 0xa5;
	return 0;
}

static int mprotect_write(const struct target *t)
{
	uint8_t *map = map_ro(t);

	return map ? protect_and_store(map, t->size) : -errno;
}

static int mprotect_one_page(const struct target *t)
{
	uint8_t *map = map_ro(t);

	return map ? protect_and_store(map, PAGE) : -errno;
}

static int mprotect_from_none(const struct target *t)
{
	uint8_t *map = mmap(NULL, t->size, PROT_NONE, MAP_SHARED, t->fd, t->offset);

	return map != MAP_FAILED ? protect_and_store(map, t->size) : -errno;
}

static int mremap_duplicate(const struct target *t)
{
	uint8_t *map = map_ro(t), *copy;

	if (!map)
		return -errno;
	/* Old size 0: a second mapping of the same pages. */
	copy = mremap(map, 0, t->size, MREMAP_MAYMOVE);
	return copy != MAP_FAILED ? protect_and_store(copy, t->size) : -errno;
}

static int remap_pages(const struct target *t)
{
	uint8_t *map = map_ro(t);

	if (!map)
		return -errno;
	if (syscall(SYS_remap_file_pages, map, PAGE, 0, 1, 0))
		return -errno;
	return protect_and_store(map, PAGE);
}

static int advise(const struct target *t, int prot, int flags, int advice)
{
	uint8_t *map = mmap(NULL, t->size, prot, flags, t->fd, t->offset);

	if (map == MAP_FAILED)
		return -errno;
	return madvise(map, PAGE, advice) ? -errno : 0;
}

static int madvise_remove(const struct target *t)
{
	return advise(t, PROT_READ, MAP_SHARED, MADV_REMOVE);
}

static int madvise_populate_write(const struct target *t)
{
	return advise(t, PROT_READ, MAP_SHARED, MADV_POPULATE_WRITE);
}

static int madvise_private_dontneed(const struct target *t)
{
	uint8_t *map = mmap(NULL, t->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, t->fd, t->offset);

	if (map == MAP_FAILED)
		return -errno;
	for (int i = 0; i < 100; i++) {
		*(volatile uint8_t *)map = 0xa5;
		if (madvise(map, PAGE, MADV_DONTNEED))
			return -errno;
	}
	return 0;
}

static int self_writev(const struct target *t)
{
	uint8_t *map = map_ro(t);
	struct iovec from = { (void *)evil, sizeof(evil) }, to = { map, sizeof(evil) };

	if (!map)
		return -errno;
	return process_vm_writev(getpid(), &from, 1, &to, 1, 0) < 0 ? -errno : 0;
}

static int write_mem(const struct target *t, int prot, int flags)
{
	uint8_t *map = mmap(NULL, t->size, prot, flags, t->fd, t->offset);
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

	if (map == MAP_FAILED || mem < 0)
		return -errno;
	return pwrite(mem, evil, sizeof(evil), (off_t)(uintptr_t)map) < 0 ? -errno : 0;
}

static int proc_self_mem(const struct target *t)
{
	return write_mem(t, PROT_READ, MAP_SHARED);
}

/* FOLL_FORCE writes to a copy: the file must not see it. */
static int proc_self_mem_private(const struct target *t)
{
	return write_mem(t, PROT_READ, MAP_PRIVATE);
}

static int ptrace_poke(const struct target *t)
{
	uint8_t *map = map_ro(t);
	int status, err = 0;
	pid_t pid;

	if (!map)
		return -errno;
	pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		return -ECHILD;
	if (ptrace(PTRACE_POKEDATA, pid, map, (void *)0x4b43415454413131))
		err = -errno;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return err;
}

static int read_into(const struct target *t)
{
	uint8_t *map = map_ro(t);
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	if (!map || zero < 0)
		return -errno;
	return read(zero, map, PAGE) < 0 ? -errno : 0;
}

/* A read by io_uring; with the mapping as a fixed buffer, or as it is. */
static int ring_read(const struct target *t, int fixed)
{
	struct io_uring_params p = { 0 };
	struct iovec vec = { map_ro(t), PAGE };
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	int ring = syscall(SYS_io_uring_setup, 2, &p);
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqe;
	uint8_t *rings;

	if (ring < 0)
		return errno == ENOSYS || errno == EPERM ? NOT_APPLICABLE : -errno;
	if (!vec.iov_base || zero < 0)
		return -errno;
	if (fixed && syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &vec, 1))
		return -errno;
	/* One mapping has both rings since 5.4. */
	rings = mmap(NULL, p.sq_off.array + p.sq_entries * 4 + p.cq_off.cqes + p.cq_entries * sizeof(*cqe),
		     PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	sqes = mmap(NULL, p.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		    IORING_OFF_SQES);
	if (rings == MAP_FAILED || sqes == MAP_FAILED)
		return -errno;
	memset(sqes, 0, sizeof(*sqes));
	sqes->opcode = fixed ? IORING_OP_READ_FIXED : IORING_OP_READ;
	sqes->fd = zero;
	sqes->addr = (uintptr_t)vec.iov_base;
	sqes->len = PAGE;
	*(uint32_t *)(rings + p.sq_off.array) = 0;
	__atomic_store_n((uint32_t *)(rings + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	cqe = (void *)(rings + p.cq_off.cqes);
	return cqe->res < 0 ? cqe->res : 0;
}

static int io_uring_fixed(const struct target *t)
{
	return ring_read(t, 1);
}

static int io_uring_read(const struct target *t)
{
	return ring_read(t, 0);
}

/* Pages that were given to a pipe, and then written to as the pipe's own. */
static int vmsplice_gift(const struct target *t)
{
	struct iovec vec = { map_ro(t), PAGE };
	int pipefd[2];

	if (!vec.iov_base || pipe(pipefd))
		return -errno;
	vec.iov_len = 16;
	if (vmsplice(pipefd[1], &vec, 1, SPLICE_F_GIFT) < 0)
		return -errno;
	return write(pipefd[1], evil, sizeof(evil)) < 0 ? -errno : 0;
}

static int vmsplice_from_pipe(const struct target *t)
{
	struct iovec vec = { map_ro(t), sizeof(evil) };
	int pipefd[2];

	if (!vec.iov_base || pipe(pipefd) || write(pipefd[1], evil, sizeof(evil)) < 0)
		return -errno;
	return vmsplice(pipefd[0], &vec, 1, 0) < 0 ? -errno : 0;
}

/* Pages filled by a page fault handler in user space. */
static int userfault_copy(const struct target *t)
{
	struct uffdio_api api = { .api = UFFD_API };
	static uint8_t from[PAGE] __attribute__((aligned(PAGE)));
	uint8_t *map = map_ro(t);
	struct uffdio_register reg = {
		.range = { (uintptr_t)map, PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy copy = { .dst = (uintptr_t)map, .src = (uintptr_t)from, .len = PAGE };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		return NOT_APPLICABLE;
	if (!map || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg) ||
	    ioctl(fd, UFFDIO_COPY, &copy))
		return -errno;
	return 0;
}

/* The file again, by the name that the kernel gives to the mapping: for root. */
static int map_files(const struct target *t)
{
	uint8_t *map = map_ro(t);
	char path[96];
	int fd;

	if (!map)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)map,
		 (unsigned long)map + t->size);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return pwrite(fd, evil, sizeof(evil), t->offset) < 0 ? -errno : 0;
}

const struct attack map_attacks[] = {
	{ "mmap_shared_write", mmap_shared_write, 0 },
	{ "mmap_write_only", mmap_write_only, 0 },
	{ "mmap_shared_validate", mmap_shared_validate, 0 },
	{ "mmap_private_write", mmap_private_write, 0 },
	{ "store_to_readonly", store_to_readonly, 0 },
	{ "mprotect_write", mprotect_write, 0 },
	{ "mprotect_one_page", mprotect_one_page, 0 },
	{ "mprotect_from_none", mprotect_from_none, 0 },
	{ "mremap_duplicate", mremap_duplicate, 0 },
	{ "remap_file_pages", remap_pages, 0 },
	{ "madvise_remove", madvise_remove, 0 },
	{ "madvise_populate_write", madvise_populate_write, 0 },
	{ "madvise_private_dontneed", madvise_private_dontneed, 0 },
	{ "process_vm_writev", self_writev, 0 },
	{ "proc_self_mem", proc_self_mem, 0 },
	{ "proc_self_mem_private", proc_self_mem_private, 0 },
	{ "ptrace_poke", ptrace_poke, 0 },
	{ "read_into", read_into, 0 },
	{ "io_uring_fixed", io_uring_fixed, 0 },
	{ "io_uring_read", io_uring_read, 0 },
	{ "vmsplice_gift", vmsplice_gift, 0 },
	{ "vmsplice_from_pipe", vmsplice_from_pipe, 0 },
	{ "userfault_copy", userfault_copy, 0 },
	{ "map_files", map_files, 0 },
	{ 0 }
};
