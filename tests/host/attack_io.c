// SPDX-License-Identifier: GPL-2.0-only
/* Attacks by what writes into a process's memory for it: the kernel, debuggers, devices. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "derive-check.h"

#define PAGE 4096

/* The kernel forces this through where a private copy could be made. */
static int proc_mem(const struct target *t)
{
	uint8_t byte = ATTACK_BYTE;
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC), err;

	if (mem < 0)
		return NOT_TRIED;
	err = pwrite(mem, &byte, 1, (off_t)(uintptr_t)t->map) < 0 ? errno : 0;
	close(mem);
	return err;
}

static int process_vm_write(const struct target *t)
{
	uint8_t byte = ATTACK_BYTE;
	struct iovec from = { &byte, 1 }, to = { t->map, 1 };

	return process_vm_writev(getpid(), &from, 1, &to, 1, 0) < 0 ? errno : 0;
}

static int ptrace_poke(const struct target *t)
{
	pid_t child = fork();
	int status, err;

	if (child < 0)
		return NOT_TRIED;
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(child, &status, 0);
	err = ptrace(PTRACE_POKEDATA, child, t->map, (void *)(uintptr_t)ATTACK_BYTE) ? errno : 0;
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	return err;
}

static int read_into(const struct target *t)
{
	int file = memfd_create("bytes", MFD_CLOEXEC), err;
	uint8_t byte = ATTACK_BYTE;

	if (file < 0 || pwrite(file, &byte, 1, 0) != 1)
		return NOT_TRIED;
	err = pread(file, t->map, 1, 0) < 0 ? errno : 0;
	close(file);
	return err;
}

static int recv_into(const struct target *t)
{
	int ends[2], err;
	uint8_t byte = ATTACK_BYTE;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) || send(ends[0], &byte, 1, 0) != 1)
		return NOT_TRIED;
	err = recv(ends[1], t->map, 1, 0) < 0 ? errno : 0;
	close(ends[0]);
	close(ends[1]);
	return err;
}

/* FUTEX_WAKE_OP sets a word of user memory. */
static int futex_set(const struct target *t)
{
	uint32_t mine = 0;
	int op = FUTEX_OP(FUTEX_OP_SET, ATTACK_BYTE, FUTEX_OP_CMP_EQ, 0);

	return syscall(SYS_futex, &mine, FUTEX_WAKE_OP, 0, 0, t->map, op) < 0 ? errno : 0;
}

static int io_uring_read(const struct target *t)
{
	return uring_read(t->map, false);
}

static int io_uring_fixed(const struct target *t)
{
	return uring_read(t->map, true);
}

/*
 * Pages given to a pipe, a copy of them in another, and then bytes after them:
 * a kernel that merged those into the page would write to the buffer.
 */
static int vmsplice_gift(const struct target *t)
{
	struct iovec page = { t->map, 16 };
	int first[2], second[2], err = 0;
	uint8_t bytes[64];

	memset(bytes, ATTACK_BYTE, sizeof(bytes));
	if (pipe2(first, O_CLOEXEC) || pipe2(second, O_CLOEXEC))
		return NOT_TRIED;
	if (vmsplice(first[1], &page, 1, SPLICE_F_GIFT) < 0 ||
	    tee(first[0], second[1], 16, 0) < 0 ||
	    write(first[1], bytes, sizeof(bytes)) < 0 || write(second[1], bytes, sizeof(bytes)) < 0)
		err = errno;
	for (int i = 0; i < 2; i++) {
		close(first[i]);
		close(second[i]);
	}
	return err;
}

/* The same page moved into a file, which then is written. */
static int vmsplice_move(const struct target *t)
{
	struct iovec page = { t->map, PAGE };
	int ends[2], file = memfd_create("moved", MFD_CLOEXEC), err = 0;
	uint8_t byte = ATTACK_BYTE;

	if (file < 0 || pipe2(ends, O_CLOEXEC))
		return NOT_TRIED;
	if (vmsplice(ends[1], &page, 1, SPLICE_F_GIFT) < 0 ||
	    splice(ends[0], NULL, file, NULL, PAGE, SPLICE_F_MOVE) < 0 || pwrite(file, &byte, 1, 0) < 0)
		err = errno;
	close(ends[0]);
	close(ends[1]);
	close(file);
	return err;
}

/* A camera that captures into user memory. */
static int camera_user(const struct target *t)
{
	return camera_capture_user(t->map);
}

/* A VMM that maps it as RAM, writable, whatever it is. */
static int kvm_ram(const struct target *t)
{
	return kvm_store(t->map);
}

const struct attack attacks_io[] = {
	{ "proc_mem", proc_mem, REFUSED },
	{ "process_vm_writev", process_vm_write, REFUSED },
	{ "ptrace_poke", ptrace_poke, REFUSED },
	{ "read_into", read_into, REFUSED },
	{ "recv_into", recv_into, REFUSED },
	{ "futex", futex_set, REFUSED },
	{ "io_uring_read", io_uring_read, REFUSED },
	{ "io_uring_fixed", io_uring_fixed, REFUSED },
	{ "vmsplice_gift", vmsplice_gift, HARMLESS },
	{ "vmsplice_move", vmsplice_move, HARMLESS },
	{ "camera_user", camera_user, REFUSED },
	{ "kvm_ram", kvm_ram, REFUSED },
	{ 0 },
};
