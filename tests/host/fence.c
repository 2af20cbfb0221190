// SPDX-License-Identifier: GPL-2.0-only
/* Sync, fences and poll. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/dma-buf.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "derive-check.h"

static int sync_err(int fd, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	return ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync) ? errno : 0;
}

static int export_err(int fd, uint32_t flags, int *fence)
{
	struct dma_buf_export_sync_file arg = { .flags = flags, .fd = -1 };
	int err = ioctl(fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &arg) ? errno : 0;

	*fence = arg.fd;
	return err;
}

static int import_err(int fd, uint32_t flags, int fence)
{
	struct dma_buf_import_sync_file arg = { .flags = flags, .fd = fence };

	return ioctl(fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &arg) ? errno : 0;
}

static int poll_now(int fd, short events)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	return poll(&pfd, 1, 0) < 0 ? -errno : pfd.revents;
}

static void read_only_sync(int ro)
{
	expect("sync_start_read", sync_err(ro, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ), 0);
	expect("sync_end_read", sync_err(ro, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ), 0);
	expect("sync_start_write", sync_err(ro, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE), EACCES);
	expect("sync_end_write", sync_err(ro, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE), EACCES);
	expect("sync_start_rw", sync_err(ro, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW), EACCES);
	expect("sync_neither", sync_err(ro, DMA_BUF_SYNC_START), EINVAL);
	expect("sync_unknown", sync_err(ro, DMA_BUF_SYNC_READ | 8), EINVAL);
	expect("sync_high", sync_err(ro, DMA_BUF_SYNC_READ | 1ULL << 63), EINVAL);
	expect("sync_null", ioctl(ro, DMA_BUF_IOCTL_SYNC, NULL) ? errno : 0, EFAULT);
}

static void sync_files(int ro, int rw)
{
	int fence, other;

	expect("export_read", export_err(ro, DMA_BUF_SYNC_READ, &fence), 0);
	expect("export_write", export_err(ro, DMA_BUF_SYNC_WRITE, &other), 0);
	close(other);
	expect("export_neither", export_err(ro, 0, &other), EINVAL);
	expect("import_write", import_err(ro, DMA_BUF_SYNC_WRITE, fence), EACCES);
	expect("import_read", import_err(ro, DMA_BUF_SYNC_READ, fence), EACCES);
	expect("rw_import_write", import_err(rw, DMA_BUF_SYNC_WRITE, fence), 0);
	expect("rw_import_read", import_err(rw, DMA_BUF_SYNC_READ, fence), 0);
	close(fence);
	expect("set_name", ioctl(ro, DMA_BUF_SET_NAME_B, "mine") ? errno : 0, ENOTTY);
	expect("rw_set_name", ioctl(rw, DMA_BUF_SET_NAME_B, "mine") ? errno : 0, ENOTTY);
	expect("kernel_derive", ioctl(ro, _IOWR('b', 4, uint64_t), &fence) ? errno : 0, ENOTTY);
	expect("rw_sync_write", sync_err(rw, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE), 0);
	expect("rw_sync_end", sync_err(rw, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE), 0);
}

/* Polls until it is so: a dma-buf lets one wait at a time, and may say "not yet" for the moment. */
static bool becomes_ready(int fd, short events)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	return poll(&pfd, 1, 5000) == 1 && (pfd.revents & events);
}

static void idle_poll(int ro, int rw)
{
	check("poll_in", becomes_ready(ro, POLLIN), "ready");
	check("poll_out", poll_now(ro, POLLOUT) == 0, "%#x", poll_now(ro, POLLOUT));
	check("poll_in_out", !(poll_now(ro, POLLIN | POLLOUT) & POLLOUT), "never for writing");
	check("rw_poll_out", becomes_ready(rw, POLLOUT), "ready");
}

/* A device's fence: a writer's holds up readers, a reader's does not. */
static void device_fence(struct memory *m, int ro, int rw)
{
	int vgem = vgem_open();
	uint32_t handle, fence;
	int err;

	check("vgem", vgem >= 0, "%d", vgem);
	if (vgem < 0)
		return;
	expect("import_alias", vgem_import(vgem, ro, &handle), EINVAL);
	expect("import_rw_alias", vgem_import(vgem, rw, &handle), EINVAL);
	err = vgem_import(vgem, m->fd, &handle);
	if (!strcmp(m->name, "exporter")) {
		close(vgem);
		return;
	}
	expect("import_parent", err, 0);
	if (err) {
		close(vgem);
		return;
	}
	expect("write_fence", vgem_fence(vgem, handle, true, &fence), 0);
	check("write_fence_holds", poll_now(ro, POLLIN) == 0, "%#x", poll_now(ro, POLLIN));
	expect("write_fence_signal", vgem_signal(vgem, fence), 0);
	check("write_fence_ends", becomes_ready(ro, POLLIN), "ready");

	expect("read_fence", vgem_fence(vgem, handle, false, &fence), 0);
	check("read_fence_passes", becomes_ready(ro, POLLIN), "ready");
	check("read_fence_holds_writer", !(poll_now(rw, POLLOUT) & POLLOUT), "not ready");
	expect("read_fence_signal", vgem_signal(vgem, fence), 0);
	check("read_fence_ends", becomes_ready(rw, POLLOUT), "ready");
	close(vgem);
}

void fences(const char *exporter)
{
	struct memory m;
	int ro = -1, rw = -1, lenient = -1, err;

	group("%s/fence", exporter);
	err = memory_open(exporter, &m);
	err = err ?: derive(m.fd, O_RDONLY, 0, &ro) ?: derive(m.fd, O_RDWR, 0, &rw) ?:
	      derive(m.fd, O_RDONLY, LENIENT, &lenient);
	expect("derive", err, 0);
	if (err)
		return;
	read_only_sync(ro);
	expect("lenient_sync_write", sync_err(lenient, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE), EACCES);
	expect("lenient_sync_read", sync_err(lenient, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ), 0);
	expect("lenient_sync_end", sync_err(lenient, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ), 0);
	check("lenient_poll_out", poll_now(lenient, POLLOUT) == 0, "not ready");
	sync_files(ro, rw);
	idle_poll(ro, rw);
	device_fence(&m, ro, rw);
	close(ro);
	close(rw);
	close(lenient);
	memory_close(&m);
}
