// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fences and sync, for the lockstep. A fence is a sync_file with a number.
 *
 *   fence ID r|w MS     ok FENCE: the host's fences of a buffer
 *   export ID r|w       ok FENCE: DMA_BUF_IOCTL_EXPORT_SYNC_FILE
 *   merge FENCE FENCE   ok FENCE
 *   status FENCE        ok pending|signalled|ERRNO-NAME
 *   wait FENCE MS       ok STATUS MILLISECONDS: as status, when it has ended or MS have passed
 *   cancel FENCE        err ENOENT if it had ended before
 *   drop FENCE
 *   poll ID r|w MS      ok ready|busy MILLISECONDS
 *   query ID r|w        ok COUNT pending|signalled|ERRNO-NAME
 *   sync ID start|end r|w|rw
 *   hold ID r|w MS      ok MS
 *   release ID VALUE
 *   storm COUNT MS      ok: waits on all open buffers in random order, not waited for
 *   full                ok COUNT: further waits until EAGAIN, and their end
 *   storm_end MS        ok SIGNALLED OTHERS: what became of them
 *   race ID ROUNDS      ok CANCELLED SIGNALLED WRONG: a cancel races the signal
 *   block ID            a thread begins to read
 *   blocked             ok yes|no: whether it waits still
 *   unblock MS          ok, when it has ended; or the error it met
 *   info_us COUNT       ok MEDIAN MAX: microseconds that a request takes
 *   import ID           the guest's vgem puts a fence on it: err EBUSY while another is pending
 *   unbind              takes the driver away from its device
 *   invalid ID          ok PASSED FAILED NAME...: calls that must fail
 */
#define _GNU_SOURCE
#include <drm/drm.h>
#include <drm/vgem_drm.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "fence.h"
#include "guest-check.h"

int fence_files[FENCES];
int fence_count;

uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ULL + now.tv_nsec / 1000;
}

/* Numbers are not used again: 0 stands for a fence that was dropped. */
int fence_keep(int fd)
{
	if (fence_count == FENCES) {
		close(fd);
		return -EMFILE;
	}
	fence_files[fence_count] = fd;
	return fence_count++;
}

static int file_of(const char *text)
{
	int number = text ? atoi(text) : -1;

	return number >= 0 && number < fence_count && fence_files[number] ? fence_files[number] : -1;
}

static uint32_t usage_of(const char *text)
{
	if (!text)
		return 0;
	return (strchr(text, 'r') ? VIRTIO_DMABUF_USAGE_READ : 0) |
	       (strchr(text, 'w') ? VIRTIO_DMABUF_USAGE_WRITE : 0);
}

int fence_make(int dev, const struct buffer *buf, uint32_t usage, uint32_t ms)
{
	struct virtio_dmabuf_ioc_fence arg = {
		.fd = buf->fd, .usage = usage, .timeout_ms = ms,
		.flags = VIRTIO_DMABUF_FENCE_SYNC_FILE,
	};

	return ioctl(dev, VIRTIO_DMABUF_IOC_FENCE, &arg) ? -errno : arg.sync_file;
}

int fence_cancel(int dev, int file)
{
	struct virtio_dmabuf_ioc_cancel arg = { .sync_file = file };

	return ioctl(dev, VIRTIO_DMABUF_IOC_CANCEL, &arg) ? -errno : 0;
}

/* 0: pending, 1: signalled, or -errno. */
int fence_status(int file)
{
	struct sync_file_info info = { 0 };

	return ioctl(file, SYNC_IOC_FILE_INFO, &info) ? -errno : info.status;
}

static const char *status_name(int status)
{
	return status < 0 ? errno_name(status) : status ? "signalled" : "pending";
}

int becomes_ready(int fd, short events, int ms)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	return poll(&pfd, 1, ms) == 1 && (pfd.revents & events);
}

static int merge(int one, int other)
{
	struct sync_merge_data arg = { .name = "merged", .fd2 = other };

	return ioctl(one, SYNC_IOC_MERGE, &arg) ? -errno : arg.fence;
}

static int export(const struct buffer *buf, uint32_t usage)
{
	struct dma_buf_export_sync_file arg = { .flags = usage };

	return ioctl(buf->fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &arg) ? -errno : arg.fd;
}

int fence_hold(int dev, const struct buffer *buf, uint32_t usage, uint32_t *ms)
{
	struct virtio_dmabuf_ioc_hold arg = { .fd = buf->fd, .usage = usage, .timeout_ms = *ms };

	if (ioctl(dev, VIRTIO_DMABUF_IOC_HOLD, &arg))
		return -errno;
	*ms = arg.timeout_ms;
	return 0;
}

int fence_release(int dev, const struct buffer *buf, uint64_t value)
{
	struct virtio_dmabuf_ioc_release arg = { .fd = buf->fd, .value = value };

	return ioctl(dev, VIRTIO_DMABUF_IOC_RELEASE, &arg) ? -errno : 0;
}

static int say_fence(int fd, say_fn *say)
{
	int number = fd < 0 ? fd : fence_keep(fd);

	if (number < 0)
		return number;
	say(" %d", number);
	return 0;
}

static int do_wait(int file, int ms, say_fn *say)
{
	uint64_t start = now_us();

	becomes_ready(file, POLLIN, ms);
	say(" %s %llu", status_name(fence_status(file)),
	    (unsigned long long)(now_us() - start) / 1000);
	return 0;
}

static int do_poll(const struct buffer *buf, uint32_t usage, int ms, say_fn *say)
{
	short events = usage == VIRTIO_DMABUF_USAGE_WRITE ? POLLOUT : POLLIN;
	uint64_t start = now_us();
	const char *result = becomes_ready(buf->fd, events, ms) ? "ready" : "busy";

	say(" %s %llu", result, (unsigned long long)(now_us() - start) / 1000);
	return 0;
}

static int do_query(int dev, const struct buffer *buf, uint32_t usage, say_fn *say)
{
	struct virtio_dmabuf_ioc_query arg = { .fd = buf->fd, .usage = usage };

	if (ioctl(dev, VIRTIO_DMABUF_IOC_QUERY, &arg))
		return -errno;
	say(" %u %s", arg.fences,
	    status_name(arg.state == VIRTIO_DMABUF_FENCE_FAILED ? -(int)arg.error : (int)arg.state));
	return 0;
}

static int do_sync(const struct buffer *buf, const char *edge, const char *usage)
{
	if (!edge || !usage || (strcmp(edge, "start") && strcmp(edge, "end")))
		return -EINVAL;
	return buffer_sync(buf, (strcmp(edge, "end") ? DMA_BUF_SYNC_START : DMA_BUF_SYNC_END) |
				usage_of(usage));
}

/* The guest's own vgem as importer: it refuses to add a fence while one is pending. */
static int do_import(const struct buffer *buf)
{
	int vgem = open("/dev/dri/renderD128", O_RDWR | O_CLOEXEC), err = 0;
	struct drm_prime_handle prime = { .fd = buf->fd };
	struct drm_vgem_fence_attach attach = { .flags = VGEM_FENCE_WRITE };

	if (vgem < 0)
		return -errno;
	if (ioctl(vgem, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime)) {
		err = errno == EBUSY ? -EIO : -errno;
	} else {
		attach.handle = prime.handle;
		if (ioctl(vgem, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach))
			err = -errno;
	}
	/* Its fence ends with the file. */
	close(vgem);
	return err;
}

static int unbind(void)
{
	glob_t found;
	int file = open("/sys/bus/virtio/drivers/virtio_dmabuf/unbind", O_WRONLY | O_CLOEXEC), err = 0;
	const char *device;

	if (file < 0)
		return -errno;
	if (glob("/sys/bus/virtio/drivers/virtio_dmabuf/virtio*", 0, NULL, &found)) {
		close(file);
		return -ENODEV;
	}
	device = strrchr(found.gl_pathv[0], '/') + 1;
	if (write(file, device, strlen(device)) < 0)
		err = -errno;
	globfree(&found);
	close(file);
	return err;
}

static int with_fence(int dev, char **word, say_fn *say)
{
	int file = file_of(word[1]), other;

	if (file < 0)
		return -EBADF;
	if (!strcmp(word[0], "status")) {
		say(" %s", status_name(fence_status(file)));
		return 0;
	}
	if (!strcmp(word[0], "wait"))
		return word[2] ? do_wait(file, atoi(word[2]), say) : -EINVAL;
	if (!strcmp(word[0], "cancel"))
		return fence_cancel(dev, file);
	if (!strcmp(word[0], "merge")) {
		other = file_of(word[2]);
		return other < 0 ? -EBADF : say_fence(merge(file, other), say);
	}
	close(file);
	fence_files[atoi(word[1])] = 0;
	return 0;
}

static int with_buffer(int dev, const struct buffer *buf, char **word, say_fn *say)
{
	uint32_t usage = usage_of(word[2]), ms = word[2] && word[3] ? atoi(word[3]) : 0;
	int err;

	if (!strcmp(word[0], "fence"))
		return say_fence(fence_make(dev, buf, usage, ms), say);
	if (!strcmp(word[0], "export"))
		return say_fence(export(buf, usage), say);
	if (!strcmp(word[0], "poll"))
		return do_poll(buf, usage, ms, say);
	if (!strcmp(word[0], "query"))
		return do_query(dev, buf, usage, say);
	if (!strcmp(word[0], "sync"))
		return do_sync(buf, word[2], word[3]);
	if (!strcmp(word[0], "hold")) {
		err = fence_hold(dev, buf, usage, &ms);
		if (!err)
			say(" %u", ms);
		return err;
	}
	if (!strcmp(word[0], "release"))
		return word[2] ? fence_release(dev, buf, strtoull(word[2], NULL, 0)) : -EINVAL;
	if (!strcmp(word[0], "race"))
		return word[2] ? race(dev, buf, atoi(word[2]), say) : -EINVAL;
	if (!strcmp(word[0], "block"))
		return block(buf);
	if (!strcmp(word[0], "import"))
		return do_import(buf);
	if (!strcmp(word[0], "full"))
		return storm_full(dev, buf, say);
	return fences_invalid(dev, buf, say);
}

static bool one_of(const char *word, const char *words)
{
	size_t len = strlen(word);

	for (const char *at = words; (at = strstr(at, word)); at += len)
		if (at[-1] == ' ' && at[len] == ' ')
			return true;
	return false;
}

int fence_command(int dev, struct buffer **open, size_t buffers, char **word, say_fn *say)
{
	unsigned long id = word[1] ? strtoul(word[1], NULL, 10) : buffers;

	if (one_of(word[0], " status wait cancel merge drop "))
		return with_fence(dev, word, say);
	if (one_of(word[0], " fence export poll query sync hold release race block import full invalid "))
		return id < buffers && open[id] ? with_buffer(dev, open[id], word, say) : -EBADF;
	if (!strcmp(word[0], "storm"))
		return word[1] && word[2] ? storm_begin(dev, open, buffers, atoi(word[1]), atoi(word[2])) :
					    -EINVAL;
	if (!strcmp(word[0], "storm_end"))
		return word[1] ? storm_end(atoi(word[1]), say) : -EINVAL;
	if (!strcmp(word[0], "blocked")) {
		say(" %s", blocked() ? "yes" : "no");
		return 0;
	}
	if (!strcmp(word[0], "unbind"))
		return unbind();
	if (!strcmp(word[0], "unblock"))
		return word[1] ? unblock(atoi(word[1])) : -EINVAL;
	if (!strcmp(word[0], "info_us"))
		return word[1] ? info_us(dev, atoi(word[1]), say) : -EINVAL;
	return -ENOSYS;
}
