// SPDX-License-Identifier: GPL-2.0-only
/* Exporters that undo a read-only mapping: it must not come about. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/dma-buf.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "derive-check.h"
#include "test_exporter/test_exporter.h"

static struct test_exporter_seen seen(int dev)
{
	struct test_exporter_seen seen = { 0 };

	ioctl(dev, TEST_EXPORTER_SEEN, &seen);
	return seen;
}

static void refused(int dev, uint32_t kind, const char *name)
{
	struct test_exporter_seen before = seen(dev);
	int fd, alias, err;
	void *map;

	group("careless/%s", name);
	err = exporter_alloc(kind, &fd);
	expect("alloc", err, 0);
	if (err)
		return;
	for (uint32_t options = 0; options <= LENIENT; options += LENIENT) {
		expect(options ? "lenient_derive" : "derive", derive(fd, O_RDONLY, options, &alias), 0);
		map = try_map(alias, PROT_READ | (options ? PROT_WRITE : 0), MAP_SHARED, &err);
		expect(options ? "lenient_map" : "map", err, EACCES);
		if (!err)
			munmap(map, SIZE);
		close(alias);
	}
	check("mappings_closed", seen(dev).mappings == before.mappings, "%lld",
	      (long long)(seen(dev).mappings - before.mappings));
	/* The access it may have. */
	expect("rw_derive", derive(fd, O_RDWR, 0, &alias), 0);
	map = try_map(alias, PROT_READ | PROT_WRITE, MAP_SHARED, &err);
	expect("rw_map", err, 0);
	if (!err)
		munmap(map, SIZE);
	close(alias);
	close(fd);
	check("buffer_freed", seen(dev).buffers == before.buffers, "%lld",
	      (long long)(seen(dev).buffers - before.buffers));
}

struct race {
	struct dma_buf_sync sync;
	atomic_bool over;
};

static void *flip(void *arg)
{
	struct race *race = arg;
	volatile uint64_t *flags = (volatile uint64_t *)&race->sync.flags;

	while (!atomic_load(&race->over)) {
		*flags = DMA_BUF_SYNC_READ;
		*flags = DMA_BUF_SYNC_RW;
	}
	return NULL;
}

/* Another thread changes the flags while SYNC reads them. */
static void sync_race(int dev)
{
	struct race race = { .sync.flags = DMA_BUF_SYNC_READ };
	uint64_t before = seen(dev).write_syncs;
	int fd, alias, err, through = 0;
	pthread_t thread;

	group("careless/sync_race");
	err = exporter_alloc(TEST_EXPORTER_PLAIN, &fd) ?: derive(fd, O_RDONLY, 0, &alias);
	expect("derive", err, 0);
	if (err || pthread_create(&thread, NULL, flip, &race))
		return;
	for (int i = 0; i < 100000; i++)
		through += !ioctl(alias, DMA_BUF_IOCTL_SYNC, &race.sync);
	atomic_store(&race.over, true);
	pthread_join(thread, NULL);
	check("raced", through > 0 && through < 100000, "%d", through);
	check("no_write_sync", seen(dev).write_syncs == before, "%lld",
	      (long long)(seen(dev).write_syncs - before));
	close(alias);
	close(fd);
}

void careless_exporters(void)
{
	int dev = open("/dev/test-exporter", O_RDWR | O_CLOEXEC);

	group("careless");
	expect("exporter", dev < 0 ? errno : 0, 0);
	if (dev < 0)
		return;
	refused(dev, TEST_EXPORTER_MAYWRITE, "maywrite");
	refused(dev, TEST_EXPORTER_WRITE, "write");
	refused(dev, TEST_EXPORTER_SHARED, "shared");
	refused(dev, TEST_EXPORTER_PROT, "prot");
	refused(dev, TEST_EXPORTER_ACCESS, "access");
	sync_race(dev);
	close(dev);
}
