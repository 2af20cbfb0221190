/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/* /dev/error-fence: puts a fence on a dma-buf that ends as one likes, with an error, too. */
#ifndef ERROR_FENCE_H
#define ERROR_FENCE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct error_fence_attach - put the file's fence on a dma-buf, once per open file
 * @fd: a dma-buf
 * @write: the fence is a writer's, not a reader's
 */
struct error_fence_attach {
	__s32 fd;
	__u32 write;
};

#define ERROR_FENCE_ATTACH	_IOW(0xd9, 0, struct error_fence_attach)
/* Ends it: 0 or an errno. Closing the file ends it with ENODEV. */
#define ERROR_FENCE_SIGNAL	_IOW(0xd9, 1, __u32)

#endif /* ERROR_FENCE_H */
