// SPDX-License-Identifier: GPL-2.0-only
/*
 * heap-check: the host's heaps as a guest's programs use them. Nothing in it but
 * `publish` knows that the memory is the host's.
 *
 * Results of checks are lines "check NAME pass|fail VALUE"; the exit status is 1
 * if one failed, 2 if the program could not do what was asked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest-check.h"
#include "heap-check.h"

#define PAGE 4096UL
#define MIB (1UL << 20)

static int failures;

static _Noreturn void die(const char *what, int err)
{
	fprintf(stderr, "heap-check: %s: %s\n", what, errno_name(err));
	exit(2);
}

static bool check(const char *name, bool pass, const char *value)
{
	printf("check %s %s %s\n", name, pass ? "pass" : "fail", value);
	fflush(stdout);
	failures += !pass;
	return pass;
}

static void check_errno(const char *name, int err, int expected)
{
	check(name, err == expected, errno_name(err));
}

int heap_alloc(int heap, uint64_t len, uint32_t fd_flags, int *fd)
{
	struct dma_heap_allocation_data data = { .len = len, .fd_flags = fd_flags };

	int err = ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) ? -errno : 0;

	*fd = err ? -1 : (int)data.fd;
	return err;
}

static int heap_open(const char *name)
{
	char path[128];
	int heap;

	snprintf(path, sizeof(path), "/dev/dma_heap/%s", name);
	heap = open(path, O_RDWR | O_CLOEXEC);
	if (heap < 0)
		die(path, errno);
	return heap;
}

static bool is_zero(const uint8_t *map, size_t len)
{
	return !map[0] && !memcmp(map, map + 1, len - 1);
}

/* One life of a buffer: it is zero, can be written to, and goes. 0 or -errno. */
static int live(int heap, size_t len, uint8_t fill)
{
	int fd, err = heap_alloc(heap, len, O_RDWR | O_CLOEXEC, &fd);
	uint8_t *map;

	if (err)
		return err;
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	err = -errno;
	close(fd);
	if (map == MAP_FAILED)
		return err;
	err = is_zero(map, len) ? 0 : -EUCLEAN;
	memset(map, fill, len);
	if (!err && (map[0] != fill || map[len - 1] != fill))
		err = -EIO;
	munmap(map, len);
	return err;
}

static void cmd_cycles(char **args)
{
	unsigned long len = strtoul(args[1], NULL, 0), count = strtoul(args[2], NULL, 0), i;
	int heap = heap_open(args[0]), err = 0;
	char value[64];

	for (i = 0; i < count && !err; i++)
		err = live(heap, len, (uint8_t)(i | 1));
	snprintf(value, sizeof(value), "%lu of %lu: %s", i, count, errno_name(err));
	check("alloc_cycles", !err, value);
}

/* What /proc says of an fd. */
static bool fdinfo_has(int fd, const char *line)
{
	char path[64], text[1024];
	ssize_t len;
	int info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	len = read(info, text, sizeof(text) - 1);
	close(info);
	text[len < 0 ? 0 : len] = 0;
	return strstr(text, line);
}

static void check_files(const char *name, int heap)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	char exporter[128];
	int fd, err = heap_alloc(heap, PAGE + 1, O_RDWR | O_CLOEXEC, &fd);
	uint8_t *map;

	check_errno("alloc", err, 0);
	if (err)
		return;
	check("whole_pages", lseek(fd, 0, SEEK_END) == 2 * PAGE, "8192");
	check("close_on_exec", fcntl(fd, F_GETFD) == FD_CLOEXEC, "FD_CLOEXEC");
	snprintf(exporter, sizeof(exporter), "exp_name:\t%s", name);
	check("fdinfo", fdinfo_has(fd, "size:\t8192") && fdinfo_has(fd, exporter), name);
	check_errno("set_name", ioctl(fd, DMA_BUF_SET_NAME, "frame") ? -errno : 0, 0);
	check("has_name", fdinfo_has(fd, "name:\tframe"), "frame");
	check_errno("sync_start", ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync) ? -errno : 0, 0);
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW;
	check_errno("sync_end", ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync) ? -errno : 0, 0);
	map = mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	check_errno("map_too_long", map == MAP_FAILED ? -errno : 0, -EINVAL);
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	check_errno("map_private", map == MAP_FAILED ? -errno : 0, -EINVAL);
	close(fd);

	err = heap_alloc(heap, PAGE, O_RDONLY | O_CLOEXEC, &fd);
	check_errno("alloc_read_only", err, 0);
	if (err)
		return;
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check_errno("read_only_fd", map == MAP_FAILED ? -errno : 0, -EACCES);
	close(fd);
}

/* Allocates until the host says no; then gives everything back, and it is there again. */
static void check_quota(int heap, unsigned long quota)
{
	int fds[256], fd, err = 0;
	unsigned long len = 4 * MIB, count = 0;
	char value[64];

	while (count < 256) {
		err = heap_alloc(heap, len, O_RDWR | O_CLOEXEC, &fds[count]);
		if (err)
			break;
		count++;
	}
	snprintf(value, sizeof(value), "%lu MiB, then %s", count * len / MIB, errno_name(err));
	check("quota", err == -EDQUOT && count * len == quota, value);
	while (count)
		close(fds[--count]);
	/* What was closed is given back by and by. */
	for (int tries = 0; tries < 100; tries++) {
		err = heap_alloc(heap, quota, O_RDWR | O_CLOEXEC, &fd);
		if (err != -EDQUOT && err != -ENOSPC)
			break;
		usleep(20000);
	}
	check_errno("quota_comes_back", err, 0);
	if (!err)
		close(fd);
}

static void cmd_contract(char **args)
{
	int heap = heap_open(args[0]), fd;
	unsigned long quota = strtoul(args[1], NULL, 0);

	check_files(args[0], heap);
	check_errno("alloc_nothing", heap_alloc(heap, 0, O_RDWR, &fd), -EINVAL);
	check_errno("alloc_too_much", heap_alloc(heap, quota + PAGE, O_RDWR, &fd), -EDQUOT);
	check_errno("alloc_absurd", heap_alloc(heap, 1ULL << 62, O_RDWR, &fd), -EDQUOT);
	check_errno("live", live(heap, 3 * MIB, 0x5a), 0);
	check_quota(heap, quota);
}

/* Holds a buffer, and touches it when told to: "read", "alloc", "sync". */
static void cmd_hold(char **args)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ };
	int heap = heap_open(args[0]), fd, other, err;
	size_t len = strtoul(args[1], NULL, 0);
	char line[32];
	uint8_t *map, byte;

	err = heap_alloc(heap, len, O_RDWR | O_CLOEXEC, &fd);
	if (err)
		die("alloc", err);
	map = map_huge(fd, len, PROT_READ | PROT_WRITE, 0);
	if (map == MAP_FAILED)
		die("mmap", errno);
	memset(map, 0x77, len);
	puts("held");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "read\n"))
			err = guarded_copy(&byte, map, 1);
		else if (!strcmp(line, "alloc\n"))
			err = heap_alloc(heap, PAGE, O_RDWR | O_CLOEXEC, &other);
		else
			err = ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync) ? -errno : 0;
		puts(errno_name(err));
		fflush(stdout);
	}
}

static void cmd_faults(char **args)
{
	size_t len = strtoul(args[1], NULL, 0);
	int fd, err = heap_alloc(heap_open(args[0]), len, O_RDWR | O_CLOEXEC, &fd);

	if (err)
		die("alloc", err);
	printf("%d faults, %d if nothing is aligned\n", map_faults(fd, len, 0),
	       map_faults(fd, len, PAGE));
}

static void cmd_capture(char **args)
{
	struct picture picture;
	int heap = heap_open(args[0]), fds[CAPTURE_BUFFERS], err;

	err = video_capture(args[1], heap, fds, &picture);
	check_errno("capture", err, 0);
	if (err)
		return;
	err = video_output(args[2], fds, &picture);
	check_errno("output", err, 0);
	for (int i = 0; i < CAPTURE_BUFFERS; i++) {
		size_t size = lseek(fds[i], 0, SEEK_END);
		uint8_t *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fds[i], 0);
		char name[32], value[64];
		uint32_t crc;

		if (map == MAP_FAILED)
			die("mmap", errno);
		snprintf(name, sizeof(name), "%s%d", args[3], i);
		err = video_publish(fds[i], name, &picture);
		crc = crc32(0, map, size);
		snprintf(value, sizeof(value), "%s: %s, %u bytes", name, errno_name(err),
			 picture.size);
		check("publish", !err, value);
		printf("picture %s %08x\n", name, crc);
	}
	fflush(stdout);
	/* The names go with the buffers' guest, not with this process; the memory with both. */
	getchar();
}

/* A buffer of the host that a device of the guest doesn't let go of, until stdin ends. */
static void cmd_pin(char **args)
{
	int dev = device_open(O_RDWR), err;
	struct buffer buf;

	if (dev < 0)
		die("no device", dev);
	err = buffer_open(dev, args[1], true, &buf);
	if (err)
		die(args[1], err);
	err = video_pin(args[0], buf.fd);
	if (err)
		die(args[0], err);
	puts("pinned");
	fflush(stdout);
	getchar();
}

static const struct command {
	const char *name;
	int count;
	const char *usage;
	void (*run)(char **args);
} commands[] = {
	{ "contract", 2, "HEAP QUOTA", cmd_contract },
	{ "cycles", 3, "HEAP SIZE COUNT", cmd_cycles },
	{ "hold", 2, "HEAP SIZE", cmd_hold },
	{ "pin", 2, "VIDEO-IN NAME", cmd_pin },
	{ "faults", 2, "HEAP SIZE", cmd_faults },
	{ "capture", 4, "HEAP VIDEO-IN VIDEO-OUT PREFIX", cmd_capture },
};

int main(int argc, char **argv)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (argc != 2 + commands[i].count || strcmp(argv[1], commands[i].name))
			continue;
		commands[i].run(argv + 2);
		return failures ? 1 : 0;
	}
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(stderr, "usage: heap-check %s %s\n", commands[i].name, commands[i].usage);
	return 2;
}
