// SPDX-License-Identifier: GPL-2.0-only
/*
 * guest-check: the guest's side of the tests.
 *
 * Results of checks are lines "check NAME pass|fail VALUE"; the exit status is 1
 * if one failed, 2 if the program could not do what was asked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

static int failures;

static void report(const char *name, bool pass, const char *value, void *arg)
{
	(void)arg;
	printf("check %s %s %s\n", name, pass ? "pass" : "fail", value);
	fflush(stdout);
	failures += !pass;
}

static _Noreturn void die(const char *what, int err)
{
	fprintf(stderr, "guest-check: %s: %s\n", what, errno_name(err));
	exit(2);
}

static int device(void)
{
	int dev = device_open(O_RDWR);

	if (dev < 0)
		die("no /dev/virtio-dmabufN: is virtio_dmabuf.ko loaded, and has the VM the device?", dev);
	return dev;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	if (*end || !*text)
		die(text, EINVAL);
	return value;
}

static void list_one(const struct virtio_dmabuf_ioc_buffer *b, void *arg)
{
	char name[NAME_LEN + 1];

	(void)arg;
	printf("buffer %s id %llu size %llu access %s enforcement %u heap %u flags %#x format %.4s %ux%u\n",
	       printable(b->name, name), (unsigned long long)b->id, (unsigned long long)b->size,
	       b->access == VIRTIO_DMABUF_RDWR ? "rw" : "ro", b->enforcement, b->heap, b->flags,
	       b->format.fourcc ? (const char *)&b->format.fourcc : "-", b->format.width, b->format.height);
}

static void cmd_list(void)
{
	int err = device_list(device(), list_one, NULL);

	if (err)
		die("list", err);
}

static void cmd_info(void)
{
	struct virtio_dmabuf_ioc_info info;
	char name[NAME_LEN + 1];
	int err = device_info(device(), &info);

	if (err)
		die("info", err);
	printf("version %u\nname %s\nwindows %u\nwindow_size %llu\nhandles %u of %u\nmappings %u of %u\nprobe %u\nuuid ",
	       info.version, printable(info.name, name), info.windows,
	       (unsigned long long)info.window_size, info.handles, info.max_handles, info.mappings,
	       info.max_mappings, info.probe);
	for (int i = 0; i < 16; i++)
		printf("%02x", info.uuid[i]);
	puts("");
}

static struct buffer opened(const char *name, bool writable)
{
	struct buffer buf;
	int err = buffer_open(device(), name, writable, &buf);

	if (err)
		die(name, err);
	return buf;
}

/* Read-only if that is possible: a VMM may be able to map a buffer read-write only. */
static struct buffer readable(const char *name)
{
	struct buffer buf;
	int err = buffer_open(device(), name, false, &buf);

	if (err == -EACCES)
		return opened(name, true);
	if (err)
		die(name, err);
	return buf;
}

static bool access_arg(const char *text)
{
	if (strcmp(text, "ro") && strcmp(text, "rw"))
		die("expected ro or rw", EINVAL);
	return !strcmp(text, "rw");
}

static void cmd_open(char **args)
{
	struct buffer buf = opened(args[0], access_arg(args[1]));

	printf("size %llu enforcement %u\n", (unsigned long long)buf.size, buf.enforcement);
}

static void cmd_crc(char **args)
{
	struct buffer buf = readable(args[0]);
	uint32_t crc;
	int err = buffer_crc(&buf, args[1] ? number(args[1]) : buf.size, &crc);

	if (err)
		die("crc", err);
	printf("%08x\n", crc);
}

static void cmd_dump(char **args)
{
	struct buffer buf = readable(args[0]);
	int err = buffer_dump(&buf, args[1], args[2] ? number(args[2]) : buf.size);

	if (err)
		die(args[1], err);
}

static void cmd_read(char **args)
{
	struct buffer buf = readable(args[0]);
	uint8_t byte;
	int err = buffer_get(&buf, number(args[1]), &byte, 1);

	if (err)
		die("read", err);
	printf("%02x\n", byte);
}

static void cmd_write(char **args)
{
	struct buffer buf = opened(args[0], true);
	uint8_t byte = strtoul(args[2], NULL, 16);
	int err = buffer_put(&buf, number(args[1]), &byte, 1);

	if (err)
		die("write", err);
}

/* Keeps a buffer open and mapped until stdin ends. */
static void cmd_keep(char **args)
{
	struct buffer buf = opened(args[0], access_arg(args[1]));
	uint32_t crc;
	int err = buffer_crc(&buf, buf.size, &crc);

	if (err)
		die("crc", err);
	printf("%08x\n", crc);
	fflush(stdout);
	getchar();
}

static void cmd_revoked(char **args)
{
	int err = revoked(device(), args, report);

	if (err)
		die(args[0], err);
}

static void cmd_faults(char **args)
{
	struct buffer buf = opened(args[0], false);

	printf("%d faults, %d if nothing is aligned\n", map_faults(buf.fd, buf.size, 0),
	       map_faults(buf.fd, buf.size, 4096));
}

static void cmd_attack(char **args)
{
	struct buffer buf = opened(args[0], false);

	attack(device(), &buf, report, NULL);
}

static void cmd_stream_list(char **args)
{
	int err = stream_list(device());

	(void)args;
	if (err)
		die("stream-list", err);
}

static void cmd_stream_stats(char **args)
{
	int err = stream_stats(device(), args[0]);

	if (err)
		die(args[0], err);
}

static void cmd_stream_consume(char **args)
{
	uint32_t depth = strcmp(args[1], "latest") ? number(args[1]) : 0;
	const char *what = args[0];
	int err = stream_consume(device(), args[0], depth, number(args[2]), &what);

	if (err)
		die(what, err);
}

static void cmd_stream_produce(char **args)
{
	const char *what = args[0];
	int err = stream_produce(device(), args[0], args[1], number(args[2]), number(args[3]),
				 number(args[4]), &what);

	if (err)
		die(what, err);
}

static void cmd_stream_negative(char **args)
{
	stream_negative(device(), args[0], args[1], number(args[2]), report, NULL);
}

static void cmd_stream_blocked(char **args)
{
	(void)args;
	stream_blocked(device(), report, NULL);
}

static void cmd_events(char **args)
{
	events(device(), args[0], number(args[1]), report);
}

static const struct command {
	const char *name;
	int min, max;
	const char *usage;
	void (*run)(char **args);
} commands[] = {
	{ "open", 2, 2, "NAME ro|rw", cmd_open },
	{ "crc", 1, 2, "NAME [LEN]", cmd_crc },
	{ "dump", 2, 3, "NAME FILE [LEN]", cmd_dump },
	{ "read", 2, 2, "NAME OFFSET", cmd_read },
	{ "write", 3, 3, "NAME OFFSET HEXBYTE", cmd_write },
	{ "keep", 2, 2, "NAME ro|rw", cmd_keep },
	{ "revoked", 6, 6, "NAME-RW HEXWORD NAME-RO HEXWORD FILE-READING FILE-END", cmd_revoked },
	{ "faults", 1, 1, "NAME", cmd_faults },
	{ "attack", 1, 1, "NAME", cmd_attack },
	{ "stream-list", 0, 0, "", cmd_stream_list },
	{ "stream-stats", 1, 1, "NAME", cmd_stream_stats },
	{ "stream-consume", 3, 3, "NAME latest|DEPTH COUNT", cmd_stream_consume },
	{ "stream-produce", 5, 5, "NAME HEAP BUFFERS COUNT FPS", cmd_stream_produce },
	{ "stream-negative", 3, 3, "NAME HEAP ROUNDS", cmd_stream_negative },
	{ "stream-blocked", 0, 0, "", cmd_stream_blocked },
	{ "events", 2, 2, "PREFIX COUNT", cmd_events },
};

static _Noreturn void usage(void)
{
	fprintf(stderr, "usage: guest-check list | info | negative | lockstep [PORT|-]\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(stderr, "       guest-check %s %s\n", commands[i].name, commands[i].usage);
	exit(2);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		usage();
	if (!strcmp(argv[1], "list") && argc == 2) {
		cmd_list();
		return 0;
	}
	if (!strcmp(argv[1], "info") && argc == 2) {
		cmd_info();
		return 0;
	}
	if (!strcmp(argv[1], "negative") && argc == 2) {
		negative(report, NULL);
		return failures ? 1 : 0;
	}
	if (!strcmp(argv[1], "lockstep") && argc <= 3)
		return lockstep(argc == 3 ? argv[2] : "/dev/virtio-ports/bed.link");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		if (argc - 2 < commands[i].min || argc - 2 > commands[i].max)
			usage();
		commands[i].run(argv + 2);
		return failures ? 1 : 0;
	}
	usage();
}
