// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: OPEN and MAP on the host, and the checks of what the
 * host answers. buffer.c makes a dma-buf of the result.
 */
#include <linux/bitops.h>
#include <linux/dma-buf.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "vdmabuf.h"

static int vdmabuf_host_open(struct vdmabuf_device *vd, u64 session,
			     const struct virtio_dmabuf_ioc_open *arg,
			     struct virtio_dmabuf_open_resp *reply)
{
	struct virtio_dmabuf_open body = { };
	struct vdmabuf_call call = {
		.session = session,
		.op = VIRTIO_DMABUF_OPEN,
		.body = &body,
		.body_len = sizeof(body),
		.reply = reply,
		.reply_min = sizeof(*reply),
		.reply_max = sizeof(*reply),
	};
	u32 flags = arg->flags & O_ACCMODE;

	if (arg->flags & O_CLOEXEC)
		flags |= VIRTIO_DMABUF_CLOEXEC;
	memcpy(body.name, arg->name, sizeof(body.name));
	body.flags = cpu_to_le32(flags);
	body.enforcement = cpu_to_le32(arg->enforcement);
	return vdmabuf_call(vd, &call);
}

/* MAP of the whole buffer. On -EIO and the like, @orphaned tells who closes the handle. */
static int vdmabuf_host_map(struct vdmabuf_device *vd, const struct vdmabuf_buffer *buf,
			    struct virtio_dmabuf_map_resp *reply, bool *orphaned)
{
	struct virtio_dmabuf_map body = {
		.handle = cpu_to_le64(buf->handle),
		.length = cpu_to_le64(buf->size),
		.access = cpu_to_le32(buf->writable ? VIRTIO_DMABUF_RDWR :
						      VIRTIO_DMABUF_RDONLY),
	};
	struct vdmabuf_call call = {
		.session = buf->session,
		.op = VIRTIO_DMABUF_MAP,
		.body = &body,
		.body_len = sizeof(body),
		.reply = reply,
		.reply_min = sizeof(*reply),
		.reply_max = sizeof(*reply),
		.handle = buf->handle,
	};
	int err = vdmabuf_call(vd, &call);

	*orphaned = call.orphaned;
	return err;
}

/* The window that a MAP reply names, with a reference, or NULL. */
static struct vdmabuf_window *vdmabuf_reply_window(struct vdmabuf_device *vd,
						   const struct virtio_dmabuf_map_resp *map)
{
	struct vdmabuf_window *win = NULL;
	uuid_t uuid;

	switch (le32_to_cpu(map->window)) {
	case VIRTIO_DMABUF_WINDOW_DYNAMIC:
		mutex_lock(&vdmabuf_lock);
		win = vd->window;
		if (win)
			vdmabuf_window_get(win);
		mutex_unlock(&vdmabuf_lock);
		break;
	case VIRTIO_DMABUF_WINDOW_STATIC:
		/* A static window is read-only, whatever the host says. */
		if (!vd->has_static || le32_to_cpu(map->access) != VIRTIO_DMABUF_RDONLY)
			break;
		import_uuid(&uuid, map->uuid);
		win = vdmabuf_window_find(&uuid);
		if (!win)
			dev_warn_ratelimited(&vd->dev,
					     "no static window %pUb: does this VM have the pool's ivshmem device?\n",
					     &uuid);
		break;
	}
	return win;
}

/* Whether the range of a MAP reply lies in its window, and can be mapped so. */
static bool vdmabuf_reply_fits(const struct vdmabuf_buffer *buf,
			       const struct virtio_dmabuf_map_resp *map)
{
	u32 access = buf->writable ? VIRTIO_DMABUF_RDWR : VIRTIO_DMABUF_RDONLY;
	u32 caching = le32_to_cpu(map->caching);
	u64 offset = le64_to_cpu(map->window_offset);

	return le64_to_cpu(map->length) == buf->size &&
	       le32_to_cpu(map->access) == access &&
	       caching >= VIRTIO_DMABUF_CACHE_CACHED && caching <= VIRTIO_DMABUF_CACHE_WC &&
	       IS_ALIGNED(offset, PAGE_SIZE) &&
	       offset <= buf->win->size && buf->size <= buf->win->size - offset;
}

static int vdmabuf_map_whole(struct vdmabuf_buffer *buf, u32 *enforcement)
{
	struct virtio_dmabuf_map_resp map;
	bool orphaned;
	int err;

	err = vdmabuf_host_map(buf->vd, buf, &map, &orphaned);
	if (err) {
		if (!orphaned)
			vdmabuf_close(buf->vd, buf->session, buf->handle);
		return err;
	}
	buf->mapping = le64_to_cpu(map.mapping);
	set_bit(VDMABUF_HELD_MAPPING, &buf->held);
	buf->win = vdmabuf_reply_window(buf->vd, &map);
	if (buf->win && vdmabuf_reply_fits(buf, &map)) {
		buf->offset = le64_to_cpu(map.window_offset);
		buf->caching = le32_to_cpu(map.caching);
		*enforcement = le32_to_cpu(map.enforcement);
		set_bit(VDMABUF_HELD_HANDLE, &buf->held);
		return 0;
	}
	if (buf->win) {
		dev_warn_ratelimited(&buf->vd->dev, "the host mapped something else than asked for\n");
		vdmabuf_window_put(buf->win);
	}
	vdmabuf_unmap(buf->vd, buf->session, buf->mapping);
	vdmabuf_close(buf->vd, buf->session, buf->handle);
	return -EIO;
}

/**
 * vdmabuf_buffer_make - makes a dma-buf of a buffer that the host has opened
 * @vd: the device
 * @session: the session, which the caller has entered
 * @open: the reply to OPEN or ALLOC; the handle is the dma-buf's from now on, also
 *	  after an error
 * @want: what was asked for
 * @enforcement: set to who makes it read-only; or NULL
 *
 * Return: the dma-buf with a reference, or an error pointer.
 */
struct dma_buf *vdmabuf_buffer_make(struct vdmabuf_device *vd, u64 session,
				    const struct virtio_dmabuf_open_resp *open,
				    const struct vdmabuf_want *want, u32 *enforcement)
{
	struct vdmabuf_buffer *buf = vdmabuf_buffer_alloc(vd, session);
	u64 handle = le64_to_cpu(open->handle);
	u32 who = VIRTIO_DMABUF_ENFORCE_NONE;
	int err = -ENOMEM;

	if (!buf)
		goto close;
	buf->handle = handle;
	buf->id = le64_to_cpu(open->buffer.id);
	buf->size = le64_to_cpu(open->buffer.size);
	buf->writable = want->access == VIRTIO_DMABUF_RDWR;
	buf->fd_flags = want->fd_flags;
	buf->exporter = want->exporter;
	buf->own = want->own;
	err = -EIO;
	if (!buf->size || !PAGE_ALIGNED(buf->size) || buf->size > MAX_LFS_FILESIZE ||
	    buf->size < want->size || le32_to_cpu(open->buffer.access) != want->access) {
		dev_warn_ratelimited(&vd->dev, "the host opened something else than asked for\n");
		goto close;
	}
	err = vdmabuf_map_whole(buf, &who);
	if (err)
		goto free;
	if (enforcement)
		*enforcement = who;
	get_device(&vd->dev);
	return vdmabuf_export(buf);

close:
	vdmabuf_close(vd, session, handle);
free:
	kfree(buf);
	return ERR_PTR(err);
}

/**
 * vdmabuf_buffer_open - opens a host buffer and makes a dma-buf of it
 * @vd: the device
 * @arg: checked argument of VIRTIO_DMABUF_IOC_OPEN; @arg->enforcement and
 *	 @arg->size are set
 * @result: set to the dma-buf, with a reference
 *
 * Context: process context, may sleep.
 * Return: 0, or an error as of vdmabuf_call().
 */
int vdmabuf_buffer_open(struct vdmabuf_device *vd, struct virtio_dmabuf_ioc_open *arg,
			struct dma_buf **result)
{
	u64 session = vdmabuf_session_enter(vd);
	struct vdmabuf_want want = {
		.access = arg->flags & O_ACCMODE,
		.fd_flags = arg->flags & O_ACCMODE,
		.exporter = KBUILD_MODNAME,
	};
	struct virtio_dmabuf_open_resp open;
	struct dma_buf *dmabuf;
	int err;

	if (!session)
		return -EIO;
	err = vdmabuf_host_open(vd, session, arg, &open);
	dmabuf = err ? ERR_PTR(err) :
		       vdmabuf_buffer_make(vd, session, &open, &want, &arg->enforcement);
	vdmabuf_session_leave(vd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	arg->size = dmabuf->size;
	*result = dmabuf;
	return 0;
}
