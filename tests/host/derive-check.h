/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * derive-check: the host module's contract, and attacks on its aliases.
 *
 * main.c        the subcommands, and what a check prints
 * memory.c      dma-bufs of every exporter there is
 * camera.c      V4L2: the camera's own dma-bufs, and capturing into others
 * vgem.c        PRIME import and fences
 * contract.c    what deriving allows and refuses
 * fence.c       sync, fences and poll
 * careless.c    exporters that undo a read-only mapping
 * attack.c      all attacks, on an alias and on a target that they must hit
 * attack_fd.c   attacks by the fd
 * attack_map.c  attacks by the mapping
 * attack_io.c   attacks by what writes into a process's memory for it
 * kvm.c         the same by a virtual machine
 * uring.c       the same by io_uring
 */
#ifndef DERIVE_CHECK_H
#define DERIVE_CHECK_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../kernel/dmabuf_derive/uapi/dmabuf_derive.h"

#define SIZE (1024 * 1024)
#define LENIENT DMABUF_DERIVE_MAP_WRITABLE_AS_READONLY

/* All functions that say nothing else return 0 or an errno. */

/* A dma-buf (or a memfd), and the producer's mapping of it. */
struct memory {
	char name[48];
	int fd;
	/* The memfd behind it, for udmabuf; else -1. */
	int memfd;
	uint8_t *map;
};

/* Exporters: "system" and other names under /dev/dma_heap, "udmabuf", "camera", "exporter". */
#define MAX_EXPORTERS 16
size_t exporters(char names[MAX_EXPORTERS][48]);
bool is_heap(const char *exporter);
int memory_open(const char *exporter, struct memory *m);
void memory_close(struct memory *m);
/* A dma-buf of a heap with any fd flags, and nothing else. */
int heap_alloc(const char *heap, uint32_t fd_flags, int *fd);
int exporter_alloc(uint32_t kind, int *fd);
int memfd_sealed(unsigned int seals, int *memfd, int *dmabuf);
void memory_fill(struct memory *m);
/* Whether all bytes are those of memory_fill(). */
bool memory_intact(const struct memory *m);

int derive(int fd, uint32_t flags, uint32_t options, int *alias);
void *try_map(int fd, int prot, int flags, int *err);
/* Copies, though either side may raise SIGBUS or SIGSEGV: then EFAULT. */
int guarded_copy(void *to, const void *from, size_t len);

/* Store to or read into a mapping, by a VM or the kernel. */
int kvm_store(uint8_t *map);
int uring_read(uint8_t *map, bool fixed);

int camera_export(int *fd);
/* Captures one frame into a dma-buf, or into memory of this process. */
int camera_capture_dmabuf(int fd);
int camera_capture_user(void *memory);

int vgem_open(void);
int vgem_import(int vgem, int fd, uint32_t *handle);
int vgem_fence(int vgem, uint32_t handle, bool write, uint32_t *fence);
int vgem_signal(int vgem, uint32_t fence);

/* Checks: lines "check GROUP/NAME pass|fail VALUE". */
void group(const char *format, ...) __attribute__((format(printf, 1, 2)));
void check(const char *name, bool pass, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Passes when @got, an errno or 0, is @want. */
void expect(const char *name, int got, int want);
const char *errno_name(int err);

void contract(const char *exporter);
void contract_device(void);
void fences(const char *exporter);
void careless_exporters(void);

/* What an attacker has: a file that promises to be read-only, and a mapping of it. */
struct target {
	int fd;
	uint8_t *map;
};

/* What it takes to say that an attack failed, beside bytes that are as they were. */
enum verdict {
	/* Refused with an errno; on a target without protection the bytes change. */
	REFUSED,
	/* Refused with an errno; without protection it is let through, and bytes need not change. */
	NOT_LET_THROUGH,
	/* Refused with an errno, by all memory there is to try it on. */
	REFUSED_ALWAYS,
	/* Nothing: it may be let through, and must do no harm. */
	HARMLESS,
};

struct attack {
	const char *name;
	/* The errno of the step that was refused, 0 when all went through, or NOT_TRIED. */
	int (*run)(const struct target *t);
	enum verdict verdict;
};

/* What an attack needs is not there. */
#define NOT_TRIED -1
/* What attacks write at offset 0, where memory_fill() puts 0. */
#define ATTACK_BYTE 0xee

/* These end with a NULL name. */
extern const struct attack attacks_fd[], attacks_map[], attacks_io[];
void attack(const char *exporter);
/* Runs all attacks on memory that nothing protects: there they must hit. */
void attack_controls(void);
int store(uint8_t *map);
int map_and_store(int fd, int prot, int flags);

#endif
