/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * host-attack: what a process can do with a read-only fd of a buffer.
 *
 * main.c    runs the attacks, and judges them by the producer's view
 * map.c     by mappings, and around their protection
 * file.c    by the file behind the fd
 * device.c  by devices that take the fd for a DMA target
 */
#ifndef HOST_ATTACK_H
#define HOST_ATTACK_H

#include <stddef.h>
#include <stdint.h>

/* What the attacker holds. */
struct target {
	int fd;
	uint64_t offset;
	size_t size;
};

/* Returned by an attack that can't be tried here. */
#define NOT_APPLICABLE	(-4096)

/*
 * An attack returns 0 when every step went through, or -errno of the step that
 * was refused. Whether it landed is seen by the bytes; or, if @by_result is set,
 * by a return value of 0: for attacks that change no byte.
 */
struct attack {
	const char *name;
	int (*run)(const struct target *t);
	int by_result;
};

extern const struct attack map_attacks[], file_attacks[], device_attacks[];

/* A read-only shared mapping; NULL with errno set. */
uint8_t *map_ro(const struct target *t);

#endif
