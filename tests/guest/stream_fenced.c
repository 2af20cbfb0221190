// SPDX-License-Identifier: GPL-2.0-only
/*
 * Commands of the lockstep for a stream whose frames come with their fences:
 *
 *   stream NAME     ok: opened
 *   frame           ok SEQUENCE FLAGS: acquired
 *   frame_wait MS   ok ready|busy: its buffer, for reading
 *   frame_release   ok: given back
 *   stream_close    ok: closed, and its buffers too
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stream.h"

static struct stream stream;
static struct virtio_dmabuf_ioc_frame frame;
static struct buffer buffers[VIRTIO_DMABUF_STREAM_BUFFERS];

static int do_frame(say_fn *say)
{
	int err = stream_acquire(&stream, &frame);

	if (!err)
		err = stream_buffer(&stream, frame.index, &buffers[frame.index % 64]);
	if (!err)
		say(" %llu %u", (unsigned long long)frame.sequence, frame.flags);
	return err;
}

static int do_wait(const char *ms, say_fn *say)
{
	struct pollfd now = { .fd = buffers[frame.index % 64].fd, .events = POLLIN };

	say(poll(&now, 1, atoi(ms)) == 1 ? " ready" : " busy");
	return 0;
}

static int do_close(void)
{
	for (int i = 0; i < 64; i++)
		if (buffers[i].map)
			buffer_close(&buffers[i]);
	memset(buffers, 0, sizeof(buffers));
	close(stream.fd);
	return 0;
}

int stream_command(int dev, char **word, say_fn *say)
{
	if (!strcmp(word[0], "stream"))
		return word[1] ? stream_open_as(dev, word[1], 0, FENCES, &stream) : -EINVAL;
	if (!strcmp(word[0], "frame"))
		return do_frame(say);
	if (!strcmp(word[0], "frame_wait"))
		return word[1] ? do_wait(word[1], say) : -EINVAL;
	if (!strcmp(word[0], "frame_release"))
		return stream_give_back(&stream, frame.sequence);
	if (!strcmp(word[0], "stream_close"))
		return do_close();
	return -ENOSYS;
}
