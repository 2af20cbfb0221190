// SPDX-License-Identifier: GPL-2.0-only
/*
 * Commands from the host, one line each, over a virtio-serial port; each is
 * answered by one line, "ok ..." or "err ERRNO-NAME". The first line, "ready",
 * comes when the host has connected. With "-" for the port they come from standard
 * input, and answers go to standard output.
 *
 *   open NAME ro|rw     ok ID SIZE
 *   crc ID [LEN]        ok HEX
 *   read ID OFFSET      ok HEXBYTE
 *   write ID OFFSET HEXBYTE
 *   tags ID [LEN]       ok HEX PAGES WRONG: first 8 bytes of page 0, pages, pages
 *                       whose first 8 bytes aren't that number plus the page's
 *   dump ID PATH [LEN]
 *   attack ID           ok PASSED FAILED NAME=VALUE..., the failed ones marked by !
 *   close ID
 *   list                ok NAME:SIZE:ro|rw...
 *   info                ok HANDLES MAPPINGS PROBE
 *   quit
 *
 * and what fence.c and stream_fenced.c have.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stream.h"

#define BUFFERS		64
#define CONNECT_SECONDS	120

static struct {
	int dev;
	struct buffer *open[BUFFERS];
	char answer[16384];
	size_t used;
} state;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
	size_t room = sizeof(state.answer) - state.used;
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(state.answer + state.used, room, format, args);
	va_end(args);
	if (len > 0 && (size_t)len < room)
		state.used += len;
}

/* The buffer with the ID that @text says. */
static struct buffer *buffer_of(const char *text)
{
	char *end;
	unsigned long id = text ? strtoul(text, &end, 10) : BUFFERS;

	return text && *text && !*end && id < BUFFERS ? state.open[id] : NULL;
}

static int do_open(const char *name, const char *access)
{
	struct buffer *buf;
	int id, err;

	if (!name || !access || (strcmp(access, "ro") && strcmp(access, "rw")))
		return -EINVAL;
	for (id = 0; id < BUFFERS && state.open[id]; id++)
		;
	if (id == BUFFERS)
		return -EMFILE;
	buf = calloc(1, sizeof(*buf));
	if (!buf)
		return -ENOMEM;
	err = buffer_open(state.dev, name, !strcmp(access, "rw"), buf);
	if (err) {
		free(buf);
		return err;
	}
	state.open[id] = buf;
	say(" %d %llu", id, (unsigned long long)buf->size);
	return 0;
}

static int do_close(const char *id)
{
	struct buffer *buf = buffer_of(id);

	if (!buf)
		return -EBADF;
	buffer_close(buf);
	free(buf);
	state.open[atoi(id)] = NULL;
	return 0;
}

static int do_crc(const struct buffer *buf, const char *len)
{
	uint32_t crc;
	int err = buffer_crc(buf, len ? strtoull(len, NULL, 0) : buf->size, &crc);

	if (!err)
		say(" %08x", crc);
	return err;
}

static int do_read(const struct buffer *buf, const char *offset)
{
	uint8_t byte;
	int err = offset ? buffer_get(buf, strtoull(offset, NULL, 0), &byte, 1) : -EINVAL;

	if (!err)
		say(" %02x", byte);
	return err;
}

static int do_write(const struct buffer *buf, const char *offset, const char *hex)
{
	uint8_t byte;

	if (!offset || !hex)
		return -EINVAL;
	if (!buf->writable)
		return -EACCES;
	byte = strtoul(hex, NULL, 16);
	return buffer_put(buf, strtoull(offset, NULL, 0), &byte, 1);
}

static int do_tags(const struct buffer *buf, const char *len_text)
{
	uint64_t len = len_text ? strtoull(len_text, NULL, 0) : buf->size;
	uint64_t first = 0, tag, pages = 0, wrong = 0;
	int err;

	for (uint64_t offset = 0; offset + sizeof(tag) <= len; offset += 4096, pages++) {
		err = buffer_get(buf, offset, &tag, sizeof(tag));
		if (err)
			return err;
		if (!pages)
			first = tag;
		wrong += tag != first + pages;
	}
	say(" %llx %llu %llu", (unsigned long long)first, (unsigned long long)pages,
	    (unsigned long long)wrong);
	return 0;
}

struct tally {
	unsigned int passed, failed;
	char text[8192];
	size_t used;
};

static void count(const char *name, bool pass, const char *value, void *arg)
{
	struct tally *tally = arg;
	int len;

	*(pass ? &tally->passed : &tally->failed) += 1;
	len = snprintf(tally->text + tally->used, sizeof(tally->text) - tally->used, " %s%s=%s",
		       pass ? "" : "!", name, value);
	if (len > 0 && len < (int)(sizeof(tally->text) - tally->used))
		tally->used += len;
}

static int do_attack(struct buffer *buf)
{
	static struct tally tally;

	memset(&tally, 0, sizeof(tally));
	attack(state.dev, buf, count, &tally);
	say(" %u %u%s", tally.passed, tally.failed, tally.text);
	return 0;
}

static void list_one(const struct virtio_dmabuf_ioc_buffer *b, void *arg)
{
	char name[NAME_LEN + 1];

	(void)arg;
	say(" %s:%llu:%s", printable(b->name, name), (unsigned long long)b->size,
	    b->access == VIRTIO_DMABUF_RDWR ? "rw" : "ro");
}

static int do_info(void)
{
	struct virtio_dmabuf_ioc_info info;
	int err = device_info(state.dev, &info);

	if (!err)
		say(" %u %u %u", info.handles, info.mappings, info.probe);
	return err;
}

static int dispatch(char *line)
{
	char *save, *word[4] = { 0 };
	struct buffer *buf;
	int err;

	for (int i = 0; i < 4; i++)
		word[i] = strtok_r(i ? NULL : line, " ", &save);
	if (!word[0])
		return -EINVAL;
	if (!strcmp(word[0], "open"))
		return do_open(word[1], word[2]);
	if (!strcmp(word[0], "list"))
		return device_list(state.dev, list_one, NULL);
	if (!strcmp(word[0], "info"))
		return do_info();
	err = stream_command(state.dev, word, say);
	if (err != -ENOSYS)
		return err;
	err = fence_command(state.dev, state.open, BUFFERS, word, say);
	if (err != -ENOSYS)
		return err;
	buf = buffer_of(word[1]);
	if (!buf)
		return word[1] ? -EBADF : -EINVAL;
	if (!strcmp(word[0], "close"))
		return do_close(word[1]);
	if (!strcmp(word[0], "crc"))
		return do_crc(buf, word[2]);
	if (!strcmp(word[0], "read"))
		return do_read(buf, word[2]);
	if (!strcmp(word[0], "write"))
		return do_write(buf, word[2], word[3]);
	if (!strcmp(word[0], "tags"))
		return do_tags(buf, word[2]);
	if (!strcmp(word[0], "dump"))
		return word[2] ? buffer_dump(buf, word[2], word[3] ? strtoull(word[3], NULL, 0) : buf->size) :
				 -EINVAL;
	if (!strcmp(word[0], "attack"))
		return do_attack(buf);
	return -EINVAL;
}

/* Waits until the host side is connected: the port sends SIGIO when that changes. */
static bool connected(int port)
{
	struct timespec limit = { .tv_sec = CONNECT_SECONDS };
	struct pollfd now = { .fd = port, .events = POLLOUT };
	sigset_t io;

	sigemptyset(&io);
	sigaddset(&io, SIGIO);
	sigprocmask(SIG_BLOCK, &io, NULL);
	if (fcntl(port, F_SETOWN, getpid()) || fcntl(port, F_SETFL, O_ASYNC))
		return false;
	while (poll(&now, 1, 0) == 1 && (now.revents & POLLHUP))
		if (sigtimedwait(&io, NULL, &limit) < 0)
			return false;
	return !fcntl(port, F_SETFL, 0);
}

static bool answer(int port, const char *text)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t sent = write(port, text, len);

		if (sent <= 0)
			return false;
		text += sent;
		len -= sent;
	}
	return true;
}

static bool serve_line(int port, char *line)
{
	char head[64];
	int err;

	if (!strcmp(line, "quit"))
		return !answer(port, "ok\n");
	state.used = 0;
	state.answer[0] = 0;
	err = dispatch(line);
	if (err) {
		snprintf(head, sizeof(head), "err %s\n", errno_name(err));
		return answer(port, head);
	}
	return answer(port, "ok") && answer(port, state.answer) && answer(port, "\n");
}

int lockstep(const char *path)
{
	bool here = !strcmp(path, "-");
	int from = here ? STDIN_FILENO : open(path, O_RDWR | O_CLOEXEC);
	int port = here ? STDOUT_FILENO : from;
	char line[512];
	size_t used = 0;
	ssize_t got;

	state.dev = device_open(O_RDWR);
	if (port < 0 || state.dev < 0) {
		fprintf(stderr, "guest-check: %s: %s\n", port < 0 ? path : "no /dev/virtio-dmabufN",
			errno_name(port < 0 ? errno : state.dev));
		return 2;
	}
	if ((!here && !connected(port)) || !answer(port, "ready\n")) {
		fprintf(stderr, "guest-check: nobody connected to %s on the host\n", path);
		return 2;
	}
	while ((got = read(from, line + used, 1)) == 1) {
		if (line[used] != '\n') {
			if (++used == sizeof(line))
				return 2;
			continue;
		}
		line[used] = 0;
		used = 0;
		if (!serve_line(port, line))
			return 0;
	}
	/* The host has hung up. */
	return 0;
}
