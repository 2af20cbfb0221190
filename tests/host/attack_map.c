// SPDX-License-Identifier: GPL-2.0-only
/* Attacks by the mapping. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "derive-check.h"

#define RDWR (PROT_READ | PROT_WRITE)
#define PAGE 4096

static int protect_and_store(uint8_t *map)
{
	return mprotect(map, SIZE, RDWR) ? errno : store(map);
}

static int plain_store(const struct target *t)
{
	return store(t->map);
}

static int mprotect_store(const struct target *t)
{
	return protect_and_store(t->map);
}

/* A mapping of one page, split off. */
static int mprotect_page(const struct target *t)
{
	return mprotect(t->map, PAGE, PROT_WRITE) ? errno : store(t->map);
}

static int pkey_mprotect_store(const struct target *t)
{
	return syscall(SYS_pkey_mprotect, t->map, SIZE, RDWR, -1) ? errno : store(t->map);
}

/* An old size of 0 makes a second mapping. */
static int mremap_copy(const struct target *t)
{
	uint8_t *copy = mremap(t->map, 0, SIZE, MREMAP_MAYMOVE);
	int err;

	if (copy == MAP_FAILED)
		return errno;
	err = protect_and_store(copy);
	munmap(copy, SIZE);
	return err;
}

/* Maps anew by the mapping's own file, which need not be the one that was mapped. */
static int remap_file_pages_mprotect(const struct target *t)
{
	return syscall(SYS_remap_file_pages, t->map, SIZE, 0, 0, 0) ? errno : protect_and_store(t->map);
}

static int remap_file_pages_page(const struct target *t)
{
	if (syscall(SYS_remap_file_pages, t->map, PAGE, 0, 0, 0))
		return errno;
	return mprotect(t->map, PAGE, RDWR) ? errno : store(t->map);
}

/* The same file again, as root may open it. */
static int reopen_mapped_file(const struct target *t)
{
	char path[96];
	int fd, err;

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)t->map,
		 (unsigned long)t->map + SIZE);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return errno;
	err = map_and_store(fd, RDWR, MAP_SHARED);
	close(fd);
	return err;
}

static int child_store(const struct target *t)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		return NOT_TRIED;
	if (!child)
		_exit(protect_and_store(t->map));
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : EFAULT;
}

static int mlocked_store(const struct target *t)
{
	mlock(t->map, SIZE);
	return protect_and_store(t->map);
}

static int madvise_remove(const struct target *t)
{
	return madvise(t->map, PAGE * 2, MADV_REMOVE) ? errno : 0;
}

static int madvise_dontneed(const struct target *t)
{
	return madvise(t->map, SIZE, MADV_DONTNEED) ? errno : 0;
}

static int madvise_free(const struct target *t)
{
	return madvise(t->map, SIZE, MADV_FREE) ? errno : 0;
}

static int madvise_populate_write(const struct target *t)
{
	return madvise(t->map, SIZE, MADV_POPULATE_WRITE) ? errno : 0;
}

static int userfault(const struct target *t)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)t->map, .len = SIZE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY), err;

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		return NOT_TRIED;
	err = ioctl(fd, UFFDIO_REGISTER, &reg) ? errno : 0;
	close(fd);
	return err;
}

const struct attack attacks_map[] = {
	{ "store", plain_store, REFUSED },
	{ "mprotect", mprotect_store, REFUSED },
	{ "mprotect_page", mprotect_page, REFUSED },
	{ "pkey_mprotect", pkey_mprotect_store, REFUSED },
	{ "mremap_copy", mremap_copy, REFUSED },
	{ "remap_file_pages", remap_file_pages_mprotect, REFUSED },
	{ "remap_file_pages_page", remap_file_pages_page, REFUSED },
	{ "map_files", reopen_mapped_file, REFUSED },
	{ "child", child_store, REFUSED },
	{ "mlock", mlocked_store, REFUSED },
	{ "madvise_remove", madvise_remove, REFUSED },
	{ "madvise_dontneed", madvise_dontneed, HARMLESS },
	{ "madvise_free", madvise_free, REFUSED_ALWAYS },
	{ "madvise_populate_write", madvise_populate_write, NOT_LET_THROUGH },
	{ "userfaultfd", userfault, NOT_LET_THROUGH },
	{ 0 },
};
