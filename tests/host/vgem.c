// SPDX-License-Identifier: GPL-2.0-only
/* vgem: a device that imports dma-bufs, and puts fences on them when told to. */
#define _GNU_SOURCE
#include <drm/drm.h>
#include <drm/vgem_drm.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "derive-check.h"

/* The node of the driver named vgem: there may be other GPUs. */
int vgem_open(void)
{
	for (int minor = 128; minor < 192; minor++) {
		char path[64], name[16] = "";
		struct drm_version version = { .name = name, .name_len = sizeof(name) - 1 };
		int fd;

		snprintf(path, sizeof(path), "/dev/dri/renderD%d", minor);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (!ioctl(fd, DRM_IOCTL_VERSION, &version) && !strcmp(name, "vgem"))
			return fd;
		close(fd);
	}
	return -1;
}

int vgem_import(int vgem, int fd, uint32_t *handle)
{
	struct drm_prime_handle prime = { .fd = fd };

	if (ioctl(vgem, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime))
		return errno;
	*handle = prime.handle;
	return 0;
}

int vgem_fence(int vgem, uint32_t handle, bool write, uint32_t *fence)
{
	struct drm_vgem_fence_attach attach = {
		.handle = handle,
		.flags = write ? VGEM_FENCE_WRITE : 0,
	};

	if (ioctl(vgem, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach))
		return errno;
	*fence = attach.out_fence;
	return 0;
}

int vgem_signal(int vgem, uint32_t fence)
{
	struct drm_vgem_fence_signal signal = { .fence = fence };

	return ioctl(vgem, DRM_IOCTL_VGEM_FENCE_SIGNAL, &signal) ? errno : 0;
}
