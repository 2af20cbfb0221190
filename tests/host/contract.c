// SPDX-License-Identifier: GPL-2.0-only
/* What deriving allows and refuses. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "derive-check.h"

#define RDWR (PROT_READ | PROT_WRITE)

static int derived_err(int fd, uint32_t flags, uint32_t options)
{
	int alias, err = derive(fd, flags, options, &alias);

	if (!err)
		close(alias);
	return err;
}

static int map_err(int fd, int prot, int flags)
{
	int err;
	void *map = try_map(fd, prot, flags, &err);

	if (!err)
		munmap(map, SIZE);
	return err;
}

/* A read-only alias of a buffer shows what the producer writes. */
static void read_only_view(struct memory *m, int alias)
{
	int err;
	uint8_t *view = try_map(alias, PROT_READ, MAP_SHARED, &err);

	expect("map_ro_alias", err, 0);
	if (err)
		return;
	memset(m->map, 0xab, SIZE);
	check("bytes_visible", !memcmp(m->map, view, SIZE), "%d", SIZE);
	memory_fill(m);
	check("later_bytes_visible", !memcmp(m->map, view, SIZE), "%d", SIZE);
	expect("mprotect", mprotect(view, SIZE, RDWR) ? errno : 0, EACCES);
	expect("mprotect_page", mprotect(view + 4096, 4096, PROT_WRITE) ? errno : 0, EACCES);
	expect("mremap_grow", mremap(view, SIZE, SIZE + 4096, MREMAP_MAYMOVE) == MAP_FAILED ? errno : 0,
	       EFAULT);
	munmap(view, SIZE);
}

static void read_only(struct memory *m)
{
	int alias, err = derive(m->fd, O_RDONLY | O_CLOEXEC, 0, &alias);

	expect("derive_ro", err, 0);
	if (err)
		return;
	expect("map_rw_parent", map_err(m->fd, RDWR, MAP_SHARED), 0);
	read_only_view(m, alias);
	expect("derive_rw_from_ro", derived_err(alias, O_RDWR | O_CLOEXEC, 0), EACCES);
	expect("derive_wronly_from_ro", derived_err(alias, O_WRONLY, 0), EACCES);
	expect("mode_3_from_ro", derived_err(alias, O_ACCMODE, 0), EINVAL);
	expect("map_rw_of_ro", map_err(alias, RDWR, MAP_SHARED), EACCES);
	expect("map_write_only_of_ro", map_err(alias, PROT_WRITE, MAP_SHARED), EACCES);
	expect("map_private", map_err(alias, PROT_READ, MAP_PRIVATE), EINVAL);
	expect("map_private_write", map_err(alias, RDWR, MAP_PRIVATE), EINVAL);
	expect("map_past_end", mmap(NULL, SIZE, PROT_READ, MAP_SHARED, alias,
				    lseek(alias, 0, SEEK_END)) == MAP_FAILED ? errno : 0, EINVAL);
	check("access_mode", (fcntl(alias, F_GETFL) & O_ACCMODE) == O_RDONLY, "O_RDONLY");
	close(alias);
}

static void read_write(struct memory *m)
{
	int alias, err = derive(m->fd, O_RDWR, 0, &alias);
	uint8_t *view;

	expect("derive_rw", err, 0);
	if (err)
		return;
	view = try_map(alias, RDWR, MAP_SHARED, &err);
	expect("map_rw_alias", err, 0);
	if (!err) {
		view[4096] = ATTACK_BYTE;
		check("rw_alias_writes", m->map[4096] == ATTACK_BYTE, "%#x", m->map[4096]);
		memory_fill(m);
		munmap(view, SIZE);
	}
	expect("map_rw_alias_private", map_err(alias, RDWR, MAP_PRIVATE), EINVAL);
	expect("derive_rw_from_rw", derived_err(alias, O_RDWR, 0), 0);
	expect("derive_ro_from_rw", derived_err(alias, O_RDONLY, 0), 0);
	expect("derive_wronly_from_rw", derived_err(alias, O_WRONLY, 0), EINVAL);
	close(alias);
}

static void lenient(struct memory *m)
{
	int alias, again, strict = -1, err = derive(m->fd, O_RDONLY, LENIENT, &alias);
	uint8_t *view, byte = ATTACK_BYTE;

	expect("lenient_derive", err, 0);
	if (err)
		return;
	view = try_map(alias, RDWR, MAP_SHARED, &err);
	expect("lenient_map_rw", err, 0);
	if (!err) {
		check("lenient_bytes_visible", !memcmp(m->map, view, SIZE), "%d", SIZE);
		expect("lenient_store", guarded_copy(view, &byte, 1), EFAULT);
		expect("lenient_mprotect", mprotect(view, SIZE, RDWR) ? errno : 0, EACCES);
		munmap(view, SIZE);
	}
	expect("lenient_map_ro", map_err(alias, PROT_READ, MAP_SHARED), 0);
	expect("lenient_map_private", map_err(alias, RDWR, MAP_PRIVATE), EINVAL);
	expect("lenient_derive_rw", derived_err(alias, O_RDWR, 0), EACCES);
	expect("lenient_derive_wronly", derived_err(alias, O_WRONLY, 0), EACCES);
	expect("option_not_inherited_derive", derive(alias, O_RDONLY, 0, &again), 0);
	expect("option_not_inherited_map", map_err(again, RDWR, MAP_SHARED), EACCES);
	close(again);
	expect("option_of_strict_alias", derive(m->fd, O_RDONLY, 0, &strict) ?:
	       derived_err(strict, O_RDONLY, LENIENT), 0);
	close(strict);
	close(alias);
}

static void wrong_requests(struct memory *m)
{
	expect("mode_3", derived_err(m->fd, O_ACCMODE, 0), EINVAL);
	expect("wronly", derived_err(m->fd, O_WRONLY, 0), EINVAL);
	expect("other_flag", derived_err(m->fd, O_RDONLY | O_NONBLOCK, 0), EINVAL);
	expect("high_flag", derived_err(m->fd, O_RDONLY | 1U << 31, 0), EINVAL);
	expect("unknown_option", derived_err(m->fd, O_RDONLY, LENIENT << 1), EINVAL);
	expect("option_with_rw", derived_err(m->fd, O_RDWR, LENIENT), EINVAL);
}

static void cloexec(struct memory *m)
{
	int with = -1, without = -1;

	expect("cloexec_derive", derive(m->fd, O_RDONLY | O_CLOEXEC, 0, &with) ?:
	       derive(m->fd, O_RDONLY, 0, &without), 0);
	check("cloexec", fcntl(with, F_GETFD) == FD_CLOEXEC, "%d", fcntl(with, F_GETFD));
	check("no_cloexec", fcntl(without, F_GETFD) == 0, "%d", fcntl(without, F_GETFD));
	close(with);
	close(without);
}

/* An alias of an alias, with everything closed that it came from. */
static void outlives(const char *exporter)
{
	struct memory m;
	int first = -1, second = -1, err = memory_open(exporter, &m);
	uint8_t *view, *kept = NULL;

	err = err ?: derive(m.fd, O_RDONLY, 0, &first) ?: derive(first, O_RDONLY, 0, &second);
	expect("outlives_derive", err, 0);
	if (err)
		return;
	view = try_map(first, PROT_READ, MAP_SHARED, &err);
	if (!err)
		kept = view;
	close(first);
	memory_close(&m);
	view = try_map(second, PROT_READ, MAP_SHARED, &err);
	expect("outlives_map", err, 0);
	close(second);
	if (!kept || err)
		return;
	check("outlives_owner", view[0] == 0 && view[1] == 31, "%02x%02x", view[0], view[1]);
	check("outlives_fd", !memcmp(kept, view, SIZE), "%d", SIZE);
	munmap(view, SIZE);
	munmap(kept, SIZE);
}

/* A parent's access is that of its file, as its allocator asked for. */
static void heap_access(const char *heap)
{
	int fd, alias, err = heap_alloc(heap, O_RDONLY | O_CLOEXEC, &fd);

	expect("heap_rdonly_alloc", err, 0);
	expect("heap_rdonly_derive_ro", derived_err(fd, O_RDONLY, 0), 0);
	expect("heap_rdonly_derive_rw", derived_err(fd, O_RDWR, 0), EACCES);
	expect("heap_rdonly_derive_wronly", derived_err(fd, O_WRONLY, 0), EACCES);
	expect("heap_rdonly_lenient", derive(fd, O_RDONLY, LENIENT, &alias), 0);
	expect("heap_rdonly_lenient_rw", derived_err(alias, O_RDWR, 0), EACCES);
	close(alias);
	close(fd);
	if (heap_alloc(heap, O_WRONLY | O_CLOEXEC, &fd))
		return;
	expect("heap_wronly_derive_ro", derived_err(fd, O_RDONLY, 0), EACCES);
	expect("heap_wronly_derive_rw", derived_err(fd, O_RDWR, 0), EACCES);
	expect("heap_wronly_derive_wronly", derived_err(fd, O_WRONLY, 0), EINVAL);
	close(fd);
}

static void file_behaviour(struct memory *m)
{
	char text[512] = "", path[64];
	off_t size = lseek(m->fd, 0, SEEK_END);
	int alias, info, err = derive(m->fd, O_RDONLY, LENIENT, &alias);

	if (err)
		return;
	check("llseek_end", lseek(alias, 0, SEEK_END) == size && size >= SIZE, "%lld", (long long)size);
	check("llseek_set", lseek(alias, 0, SEEK_SET) == 0, "0");
	expect("llseek_set_1", lseek(alias, 1, SEEK_SET) < 0 ? errno : 0, EINVAL);
	expect("llseek_cur", lseek(alias, 0, SEEK_CUR) < 0 ? errno : 0, EINVAL);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", alias);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (read(info, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(info);
	snprintf(path, sizeof(path), "size:\t%lld\n", (long long)size);
	check("fdinfo", strstr(text, path) && strstr(text, "access:\tro\n") &&
	      strstr(text, "options:\t0x1\n") && strstr(text, "exp_name:\t") &&
	      strstr(text, "dmabuf_ino:\t"), "%zu", strlen(text));
	close(alias);
}

void contract(const char *exporter)
{
	struct memory m;
	int err;

	group("%s", exporter);
	err = memory_open(exporter, &m);
	expect("alloc", err, 0);
	if (err)
		return;
	read_only(&m);
	read_write(&m);
	lenient(&m);
	wrong_requests(&m);
	cloexec(&m);
	file_behaviour(&m);
	memory_close(&m);
	outlives(exporter);
	if (is_heap(exporter))
		heap_access(exporter);
}

/* The next number that open() would give: a leaked one is missing. */
static int next_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

static int raw_derive(int dev, void *request)
{
	return ioctl(dev, DMABUF_DERIVE_IOC_DERIVE, request) ? errno : 0;
}

static void failures_leak_nothing(int dev, struct memory *m)
{
	struct dmabuf_derive *request = mmap(NULL, 4096, RDWR, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct rlimit limit, low;
	int before, err;

	memset(request, 0, sizeof(*request));
	request->fd = m->fd;
	before = next_fd();
	expect("null_request", raw_derive(dev, NULL), EFAULT);
	mprotect(request, 4096, PROT_READ);
	expect("read_only_request", raw_derive(dev, request), EFAULT);
	check("no_fd_leaked", next_fd() == before, "%d", next_fd() - before);

	mprotect(request, 4096, RDWR);
	getrlimit(RLIMIT_NOFILE, &limit);
	low = limit;
	low.rlim_cur = before;
	setrlimit(RLIMIT_NOFILE, &low);
	err = raw_derive(dev, request);
	setrlimit(RLIMIT_NOFILE, &limit);
	expect("no_fds_left", err, EMFILE);
	munmap(request, 4096);
}

static void other_files(int dev)
{
	int memfd = memfd_create("other", MFD_CLOEXEC), path = open("/dev/null", O_PATH | O_CLOEXEC);

	expect("memfd", derived_err(memfd, O_RDONLY, 0), EINVAL);
	expect("itself", derived_err(dev, O_RDONLY, 0), EINVAL);
	expect("o_path", derived_err(path, O_RDONLY, 0), EBADF);
	expect("bad_fd", derived_err(-1, O_RDONLY, 0), EBADF);
	expect("closed_fd", derived_err(1000, O_RDONLY, 0), EBADF);
	expect("other_ioctl", ioctl(dev, _IOWR(0xd7, 1, struct dmabuf_derive), NULL) ? errno : 0, ENOTTY);
	expect("other_ioctl_size", ioctl(dev, _IOWR(0xd7, 0, int), NULL) ? errno : 0, ENOTTY);
	close(memfd);
	close(path);
}

static void unload(struct memory *m)
{
	int alias, err = derive(m->fd, O_RDONLY, 0, &alias);

	expect("unload_derive", err, 0);
	expect("unload_refused", syscall(SYS_delete_module, "dmabuf_derive", O_NONBLOCK) ? errno : 0,
	       EAGAIN);
	close(alias);
}

/* What does not depend on the exporter. */
void contract_device(void)
{
	struct stat st = { 0 };
	struct memory m;
	int dev = open("/dev/dmabuf-derive", O_RDONLY | O_CLOEXEC);

	group("device");
	stat("/dev/dmabuf-derive", &st);
	check("mode", (st.st_mode & 07777) == 0660, "%04o", st.st_mode & 07777);
	expect("open", dev < 0 ? errno : 0, 0);
	if (dev < 0 || memory_open("udmabuf", &m))
		return;
	failures_leak_nothing(dev, &m);
	other_files(dev);
	close(dev);
	unload(&m);
	memory_close(&m);
}
