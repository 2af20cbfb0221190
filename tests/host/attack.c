// SPDX-License-Identifier: GPL-2.0-only
/* All attacks, on read-only aliases and on targets that they must hit. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "derive-check.h"

static const struct attack *const tables[] = { attacks_fd, attacks_map, attacks_io };

int store(uint8_t *map)
{
	uint8_t byte = ATTACK_BYTE;

	return guarded_copy(map, &byte, 1);
}

int map_and_store(int fd, int prot, int flags)
{
	int err;
	uint8_t *map = try_map(fd, prot, flags, &err);

	if (err)
		return err;
	err = store(map);
	munmap(map, SIZE);
	return err;
}

static const char *outcome(int err, bool intact)
{
	static char text[64];

	if (!intact)
		return "landed";
	if (err == NOT_TRIED)
		return "not tried: what it needs is missing";
	snprintf(text, sizeof(text), "blocked: %s", err ? errno_name(err) : "let through without effect");
	return text;
}

/* Every attack needs a mapping of its own: some take it apart. */
static void attack_all(struct memory *m, int fd, int prot)
{
	for (size_t table = 0; table < sizeof(tables) / sizeof(tables[0]); table++) {
		for (const struct attack *a = tables[table]; a->name; a++) {
			struct target target = { .fd = fd };
			int err;
			bool intact;

			target.map = try_map(fd, prot, MAP_SHARED, &err);
			if (err) {
				check(a->name, false, "can't map: %s", errno_name(err));
				continue;
			}
			err = a->run(&target);
			munmap(target.map, SIZE);
			intact = memory_intact(m);
			check(a->name, intact && err != NOT_TRIED && (err || a->verdict == HARMLESS), "%s",
			      intact && !err && a->verdict != HARMLESS ? "let through" : outcome(err, intact));
			memory_fill(m);
		}
	}
}

void attack(const char *exporter)
{
	struct memory m;
	int strict = -1, lenient = -1, err;

	group("%s/attack", exporter);
	err = memory_open(exporter, &m);
	err = err ?: derive(m.fd, O_RDONLY, 0, &strict) ?: derive(m.fd, O_RDONLY, LENIENT, &lenient);
	expect("derive", err, 0);
	if (err)
		return;
	attack_all(&m, strict, PROT_READ);
	group("%s/lenient-attack", exporter);
	attack_all(&m, lenient, PROT_READ | PROT_WRITE);
	close(strict);
	close(lenient);
	memory_close(&m);
}

/* Memory of its own for each attack: some leave seals behind. */
static bool hits(const struct attack *a, const char *unprotected)
{
	struct target target;
	struct memory m;
	int err = memory_open(unprotected, &m);
	bool hit;

	if (err)
		return false;
	target.fd = m.fd;
	target.map = try_map(m.fd, PROT_READ | PROT_WRITE, MAP_SHARED, &err);
	if (!err) {
		err = a->run(&target);
		munmap(target.map, SIZE);
	}
	/* What was cut off comes back as zeroes. */
	if (ftruncate(m.fd, SIZE))
		errno = 0;
	hit = !memory_intact(&m) || (a->verdict == NOT_LET_THROUGH && !err);
	memory_close(&m);
	return hit;
}

void attack_controls(void)
{
	static const char *const unprotected[] = { "memfd", "udmabuf", "exporter" };

	group("control");
	for (size_t table = 0; table < sizeof(tables) / sizeof(tables[0]); table++) {
		for (const struct attack *a = tables[table]; a->name; a++) {
			const char *hit = NULL;

			if (a->verdict != REFUSED && a->verdict != NOT_LET_THROUGH)
				continue;
			for (size_t i = 0; i < sizeof(unprotected) / sizeof(unprotected[0]) && !hit; i++)
				if (hits(a, unprotected[i]))
					hit = unprotected[i];
			check(a->name, hit, "%s %s", hit ? "hits" : "never hits", hit ?: "anything");
		}
	}
}
