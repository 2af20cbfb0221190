/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/* /dev/test-exporter: dma-bufs of exporters that a read-only mapping has to survive. */
#ifndef TEST_EXPORTER_H
#define TEST_EXPORTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* What its mmap() does to the mapping. */
enum test_exporter_kind {
	/* Nothing: struct pages, mapped at once. */
	TEST_EXPORTER_PLAIN,
	/* Gives VM_MAYWRITE back. */
	TEST_EXPORTER_MAYWRITE,
	/* Gives VM_WRITE back. */
	TEST_EXPORTER_WRITE,
	/* Gives VM_SHARED back. */
	TEST_EXPORTER_SHARED,
	/* Sets the page protection of a writable mapping. */
	TEST_EXPORTER_PROT,
	/* Has an access() for ptrace that writes without asking, and no pages. */
	TEST_EXPORTER_ACCESS,
	TEST_EXPORTER_KINDS,
};

/**
 * struct test_exporter_export - make a dma-buf
 * @kind: in: enum test_exporter_kind
 * @fd: out: the dma-buf, O_RDWR
 * @size: in: its size, a multiple of the page size up to 16 MiB
 */
struct test_exporter_export {
	__u32 kind;
	__s32 fd;
	__u64 size;
};

/**
 * struct test_exporter_seen - what has happened to all dma-bufs of this exporter
 * @buffers: dma-bufs there are
 * @mappings: mappings there are
 * @write_syncs: begin_cpu_access() calls for writing there were
 */
struct test_exporter_seen {
	__u64 buffers;
	__u64 mappings;
	__u64 write_syncs;
};

#define TEST_EXPORTER_EXPORT	_IOWR(0xd8, 0, struct test_exporter_export)
#define TEST_EXPORTER_SEEN	_IOR(0xd8, 1, struct test_exporter_seen)

#endif /* TEST_EXPORTER_H */
