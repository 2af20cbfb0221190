/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * guest-check: the guest's side of the tests.
 *
 * main.c      the subcommands
 * buffer.c    opening, mapping and touching a buffer
 * crc32.c     CRC-32/ISO-HDLC, as zlib's
 * negative.c  ioctls that must fail
 * attack.c    attempts to write to a read-only buffer
 * pci.c       the same by root, on the window's PCI device
 * lockstep.c  commands from the host, one at a time
 * fence.c     those about fences and sync
 * storm.c     those of them that do many things at a time
 * stream*.c   streams: see stream.h
 * events.c    events, read at once and too late
 * revoked.c   buffers that the host takes away while they are read
 */
#ifndef GUEST_CHECK_H
#define GUEST_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../kernel/virtio_dmabuf/uapi/virtio_dmabuf.h"

#define NAME_LEN VIRTIO_DMABUF_NAME_LEN

/* A buffer that was opened and mapped as its access allows. */
struct buffer {
	char name[NAME_LEN + 1];
	bool writable;
	int fd;
	uint64_t size;
	uint32_t enforcement;
	uint8_t *map;
};

/* A device node, or -errno: $DMABUF_DEVICE, or the first that is there. */
int device_open(int flags);
int device_info(int dev, struct virtio_dmabuf_ioc_info *info);
/* Calls @each for every buffer that may be opened. 0 or -errno. */
int device_list(int dev, void (*each)(const struct virtio_dmabuf_ioc_buffer *, void *), void *arg);

/* All of these return 0 or -errno; touching memory that is gone is -EFAULT. */
int buffer_open(int dev, const char *name, bool writable, struct buffer *buf);
void buffer_close(struct buffer *buf);
int buffer_sync(const struct buffer *buf, uint64_t flags);
int buffer_crc(const struct buffer *buf, uint64_t len, uint32_t *crc);
int buffer_get(const struct buffer *buf, uint64_t offset, void *to, size_t len);
int buffer_put(const struct buffer *buf, uint64_t offset, const void *from, size_t len);
int buffer_dump(const struct buffer *buf, const char *path, uint64_t len);
/* Maps it, shared, @shift bytes from where a huge page can start; as mmap(). */
uint8_t *map_huge(int fd, size_t len, int prot, size_t shift);
/* How many faults it takes to read a page each of it, mapped so; or -errno. */
int map_faults(int fd, size_t len, size_t shift);
/* Copies, though either side may raise SIGBUS or SIGSEGV. */
int guarded_copy(void *to, const void *from, size_t len);

/* Loads 32 bits, though that may raise SIGBUS. */
int guarded_load(const volatile uint32_t *from, uint32_t *value);

uint32_t crc32(uint32_t crc, const void *data, size_t len);

/* Where the results of checks go. */
typedef void report_fn(const char *name, bool pass, const char *value, void *arg);
void negative(report_fn *report, void *arg);
/* Leaves @buf open and usable; it may have been opened anew. */
void attack(int dev, struct buffer *buf, report_fn *report, void *arg);
void attack_pci(int dev, struct buffer *buf, report_fn *report, void *arg);

/* What is read of two buffers until both are gone: see revoked.c. */
int revoked(int dev, char **args, report_fn *report);

int lockstep(const char *port);
/* What a command answers, after `ok`. */
typedef void say_fn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* 0, -errno, or -ENOSYS for a command that isn't one of these. */
int fence_command(int dev, struct buffer **open, size_t buffers, char **word, say_fn *say);

/* "EACCES" for 13 and -13, "0" for 0. */
const char *errno_name(int err);
/* A name from the host, safe to print. */
const char *printable(const uint8_t *name, char out[NAME_LEN + 1]);

#endif
