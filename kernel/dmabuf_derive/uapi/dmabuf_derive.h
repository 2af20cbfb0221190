/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * /dev/dmabuf-derive: aliases of dma-bufs with the same or less access, that no
 * device can import.
 *
 * An alias shares the memory, the fences and the lifetime of its dma-buf, and
 * keeps it alive. Its fd takes these calls, and no others:
 *
 *   mmap()                    MAP_SHARED only. Of a read-only alias: PROT_WRITE
 *                             is EACCES, and so is asking for it later; EACCES
 *                             also where the dma-buf's exporter can't be kept
 *                             from writing through such a mapping
 *   DMA_BUF_IOCTL_SYNC        read-only: EACCES with DMA_BUF_SYNC_WRITE
 *   DMA_BUF_IOCTL_EXPORT_SYNC_FILE
 *   DMA_BUF_IOCTL_IMPORT_SYNC_FILE
 *                             read-only: EACCES, also for readers' fences, for
 *                             which the producer would have to wait
 *   poll()                    read-only: never ready for POLLOUT
 *   lseek(0, SEEK_END)        the size; lseek(0, SEEK_SET)
 */
#ifndef _UAPI_LINUX_DMABUF_DERIVE_H
#define _UAPI_LINUX_DMABUF_DERIVE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Accept a request for a shared writable mapping of a read-only alias, and map
 * it read-only all the same: for VMMs that can't ask for a read-only mapping.
 * A store to such a mapping is a fault. The alias's file has the access mode
 * O_RDWR, because the kernel lets no writable request through otherwise.
 */
#define DMABUF_DERIVE_MAP_WRITABLE_AS_READONLY	(1U << 0)

/**
 * struct dmabuf_derive - derive an alias
 * @fd: in: a dma-buf, or an alias
 * @flags: in: O_RDONLY or O_RDWR, optionally with O_CLOEXEC
 * @options: in: DMABUF_DERIVE_*; only for O_RDONLY
 * @alias: out: the new fd
 *
 * Errors: EINVAL for other flags or options, the access mode 3 included, and
 * for an fd that is neither a dma-buf nor an alias; EACCES for more access than
 * @fd has (O_WRONLY counts as write access); EBADF; ENOMEM; EMFILE.
 */
struct dmabuf_derive {
	__s32 fd;
	__u32 flags;
	__u32 options;
	__s32 alias;
};

#define DMABUF_DERIVE_IOC_DERIVE	_IOWR(0xd7, 0, struct dmabuf_derive)

#endif /* _UAPI_LINUX_DMABUF_DERIVE_H */
