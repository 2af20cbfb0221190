// SPDX-License-Identifier: GPL-2.0-only
/* Fences on dma-bufs: vgem's, and those of error_fence.ko. */
#define _GNU_SOURCE
#include <drm/drm.h>
#include <drm/vgem_drm.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../error_fence/error_fence.h"
#include "fence-source.h"

#define FENCES	4096

static struct fence {
	/* Of error_fence.ko, or -1: then it is vgem's. */
	int file;
	uint32_t vgem;
	bool ended;
} fences[FENCES];
static int used;
static int vgem = -1;

/* The node of the driver named vgem: there may be other GPUs. */
static int vgem_open(void)
{
	for (int minor = 128; vgem < 0 && minor < 192; minor++) {
		char path[64], name[16] = "";
		struct drm_version version = { .name = name, .name_len = sizeof(name) - 1 };
		int fd;

		snprintf(path, sizeof(path), "/dev/dri/renderD%d", minor);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (!ioctl(fd, DRM_IOCTL_VERSION, &version) && !strcmp(name, "vgem"))
			vgem = fd;
		else
			close(fd);
	}
	return vgem < 0 ? -ENODEV : 0;
}

static int keep(int file, uint32_t number)
{
	fences[used] = (struct fence){ .file = file, .vgem = number };
	return used++;
}

int vgem_attach(int dmabuf, bool write)
{
	struct drm_prime_handle prime = { .fd = dmabuf };
	struct drm_vgem_fence_attach attach = { .flags = write ? VGEM_FENCE_WRITE : 0 };
	struct drm_gem_close end = { 0 };
	int err = used == FENCES ? -ENOSPC : vgem_open();

	if (err)
		return err;
	if (ioctl(vgem, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime))
		return -errno;
	attach.handle = prime.handle;
	if (ioctl(vgem, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach))
		err = -errno;
	/* The fence stays on the dma-buf; its memory shall not stay here. */
	end.handle = prime.handle;
	ioctl(vgem, DRM_IOCTL_GEM_CLOSE, &end);
	return err ? err : keep(-1, attach.out_fence);
}

int error_attach(int dmabuf, bool write)
{
	struct error_fence_attach attach = { .fd = dmabuf, .write = write };
	int file, err;

	if (used == FENCES)
		return -ENOSPC;
	file = open("/dev/error-fence", O_RDWR | O_CLOEXEC);
	if (file < 0)
		return -errno;
	if (!ioctl(file, ERROR_FENCE_ATTACH, &attach))
		return keep(file, 0);
	err = -errno;
	close(file);
	return err;
}

int fence_signal(int number, unsigned int error)
{
	struct drm_vgem_fence_signal signal = { 0 };
	struct fence *fence = &fences[number];
	int err = 0;

	if (number < 0 || number >= used || fence->ended)
		return -ENOENT;
	fence->ended = true;
	if (fence->file >= 0) {
		err = ioctl(fence->file, ERROR_FENCE_SIGNAL, &error) ? -errno : 0;
		close(fence->file);
		return err;
	}
	signal.fence = fence->vgem;
	return ioctl(vgem, DRM_IOCTL_VGEM_FENCE_SIGNAL, &signal) ? -errno : 0;
}

int fence_signal_all(void)
{
	int order[FENCES], count = 0, other, swap, err;

	for (int i = 0; i < used; i++)
		if (!fences[i].ended)
			order[count++] = i;
	for (int i = count - 1; i > 0; i--) {
		other = rand() % (i + 1);
		swap = order[i];
		order[i] = order[other];
		order[other] = swap;
	}
	for (int i = 0; i < count; i++) {
		err = fence_signal(order[i], 0);
		if (err)
			return err;
	}
	return count;
}
