// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: an alias becomes a dma-buf of the guest.
 *
 * A dma-buf holds a handle and one mapping of the whole buffer on the host. They
 * are given back by a work item after the last user has gone: whoever closes a
 * dma-buf shall not wait for the host.
 *
 * When the window or the session behind a buffer goes away, or the host takes it
 * away, the buffer is revoked: user mappings raise SIGBUS, everything else is an
 * error. Devices of the guest that have its pages already, and kernel mappings,
 * can't be made to let go: until they do, its range of the window is kept, so that
 * they never see another buffer there.
 */
#include <linux/dma-buf.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/huge_mm.h>
#include <linux/iosys-map.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/pfn.h>
#include <linux/rwsem.h>
#include <linux/slab.h>

#include "vdmabuf.h"

#ifdef VDMABUF_HAS_PFN_T
#include <linux/pfn_t.h>
#define vdmabuf_pfn_t(pfn)	__pfn_to_pfn_t(pfn, PFN_DEV)
#else
#define vdmabuf_pfn_t(pfn)	(pfn)
#endif

/* Pages that one fault maps at most, if they are small ones */
#define VDMABUF_FAULT_PAGES	64

static LIST_HEAD(vdmabuf_buffers);

static bool vdmabuf_revoked(struct vdmabuf_buffer *buf)
{
	bool revoked;

	down_read(&buf->lock);
	revoked = buf->revoked;
	up_read(&buf->lock);
	return revoked;
}

/* One more that can't be made to let go. False: it has been revoked. */
static bool vdmabuf_use(struct vdmabuf_buffer *buf)
{
	bool revoked;

	down_read(&buf->lock);
	revoked = buf->revoked;
	if (!revoked)
		atomic_inc(&buf->users);
	up_read(&buf->lock);
	return !revoked;
}

static void vdmabuf_unuse(struct vdmabuf_buffer *buf)
{
	atomic_dec(&buf->users);
}

static pgprot_t vdmabuf_pgprot(const struct vdmabuf_buffer *buf, pgprot_t prot)
{
	switch (buf->caching) {
	case VIRTIO_DMABUF_CACHE_UNCACHED:
		return pgprot_noncached(prot);
	case VIRTIO_DMABUF_CACHE_WC:
		return pgprot_writecombine(prot);
	default:
		return prot;
	}
}

static unsigned long vdmabuf_first_pfn(const struct vdmabuf_buffer *buf)
{
	return PHYS_PFN(buf->win->start + buf->offset);
}

/* User mappings */

static vm_fault_t vdmabuf_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct vdmabuf_buffer *buf = vma->vm_private_data;
	unsigned long pages = buf->size >> PAGE_SHIFT;
	unsigned long addr = vmf->address & PAGE_MASK;
	unsigned long pfn, n, i;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	down_read(&buf->lock);
	if (buf->revoked || vmf->pgoff >= pages)
		goto unlock;
	pfn = vdmabuf_first_pfn(buf) + vmf->pgoff;
	n = min3(pages - vmf->pgoff, (vma->vm_end - addr) >> PAGE_SHIFT,
		 (unsigned long)VDMABUF_FAULT_PAGES);
	ret = vmf_insert_pfn(vma, addr, pfn);
	/* The pages after it will be wanted next; it doesn't matter if that fails. */
	for (i = 1; i < n && ret == VM_FAULT_NOPAGE; i++)
		if (vmf_insert_pfn(vma, addr + i * PAGE_SIZE, pfn + i) != VM_FAULT_NOPAGE)
			break;
unlock:
	up_read(&buf->lock);
	return ret;
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
/* A whole huge page, where mapping, buffer and window agree on its place. */
static vm_fault_t vdmabuf_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct vdmabuf_buffer *buf = vma->vm_private_data;
	unsigned long addr = vmf->address & PMD_MASK;
	unsigned long pages = buf->size >> PAGE_SHIFT;
	vm_fault_t ret = VM_FAULT_FALLBACK;
	unsigned long first, pfn;

	if (order != PMD_ORDER || addr < vma->vm_start || vma->vm_end - addr < PMD_SIZE)
		return ret;
	first = linear_page_index(vma, addr);
	down_read(&buf->lock);
	pfn = vdmabuf_first_pfn(buf) + first;
	/* What is refused here comes to vdmabuf_fault(). */
	if (!buf->revoked && IS_ALIGNED(pfn, PTRS_PER_PTE) && pages >= PTRS_PER_PTE &&
	    first <= pages - PTRS_PER_PTE)
		ret = vmf_insert_pfn_pmd(vmf, vdmabuf_pfn_t(pfn), vmf->flags & FAULT_FLAG_WRITE);
	up_read(&buf->lock);
	return ret;
}
#endif

static const struct vm_operations_struct vdmabuf_vm_ops = {
	.fault = vdmabuf_fault,
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	.huge_fault = vdmabuf_huge_fault,
#endif
};

static int vdmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct vdmabuf_buffer *buf = dmabuf->priv;

	if (!buf->writable && (vma->vm_flags & VM_WRITE))
		return -EACCES;
	/* Not VM_SHARED: the kernel takes that away from files opened O_RDONLY. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vdmabuf_revoked(buf))
		return -EIO;
	vm_flags_mod(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP,
		     buf->writable ? 0 : VM_MAYWRITE);
	vma->vm_page_prot = vdmabuf_pgprot(buf, vma->vm_page_prot);
	vma->vm_ops = &vdmabuf_vm_ops;
	vma->vm_private_data = buf;
	return 0;
}

/* Kernel mappings */

/*
 * A kernel mapping has no direction: an importer that writes to a read-only one
 * would crash the guest (a V4L2 device that captures into it, say). So a
 * read-only buffer has none.
 */
static int vdmabuf_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct vdmabuf_buffer *buf = dmabuf->priv;

	/* The linear map has cached memory only. */
	if (!buf->win->vaddr || buf->caching != VIRTIO_DMABUF_CACHE_CACHED)
		return -EOPNOTSUPP;
	if (!vdmabuf_use(buf))
		return -EIO;
	iosys_map_set_vaddr(map, buf->win->vaddr + buf->offset);
	return 0;
}

static void vdmabuf_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	vdmabuf_unuse(dmabuf->priv);
}

/* Devices of the guest */

static int vdmabuf_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct vdmabuf_buffer *buf = dmabuf->priv;

	if (!buf->win->vaddr)
		return -EOPNOTSUPP;
	return vdmabuf_revoked(buf) ? -EIO : 0;
}

static struct sg_table *vdmabuf_map(struct dma_buf_attachment *attach,
				    enum dma_data_direction dir)
{
	struct vdmabuf_buffer *buf = attach->dmabuf->priv;
	u64 part = max_t(u64, dma_get_max_seg_size(attach->dev) & PAGE_MASK, PAGE_SIZE);
	struct page *page = pfn_to_page(vdmabuf_first_pfn(buf));
	struct scatterlist *sg;
	struct sg_table *sgt;
	u64 left = buf->size;
	int err, i;

	if (!buf->writable && dir != DMA_TO_DEVICE)
		return ERR_PTR(-EACCES);
	if (!vdmabuf_use(buf))
		return ERR_PTR(-EIO);
	err = -ENOMEM;
	sgt = kzalloc(sizeof(*sgt), GFP_KERNEL);
	if (!sgt)
		goto unuse;
	err = sg_alloc_table(sgt, DIV_ROUND_UP_ULL(left, part), GFP_KERNEL);
	if (err)
		goto free;
	for_each_sgtable_sg(sgt, sg, i) {
		sg_set_page(sg, page, min(left, part), 0);
		page += part >> PAGE_SHIFT;
		left -= min(left, part);
	}
	err = dma_map_sgtable(attach->dev, sgt, dir, 0);
	if (err)
		goto free_table;
	return sgt;

free_table:
	sg_free_table(sgt);
free:
	kfree(sgt);
unuse:
	vdmabuf_unuse(buf);
	return ERR_PTR(err);
}

static void vdmabuf_unmap_sgt(struct dma_buf_attachment *attach, struct sg_table *sgt,
			      enum dma_data_direction dir)
{
	dma_unmap_sgtable(attach->dev, sgt, dir, 0);
	sg_free_table(sgt);
	kfree(sgt);
	vdmabuf_unuse(attach->dmabuf->priv);
}

/* Sync */

static int vdmabuf_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct vdmabuf_buffer *buf = dmabuf->priv;

	if (!buf->writable && dir != DMA_FROM_DEVICE)
		return -EACCES;
	return vdmabuf_revoked(buf) ? -EIO : vdmabuf_sync_start(buf, dir);
}

static int vdmabuf_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct vdmabuf_buffer *buf = dmabuf->priv;

	if (!buf->writable && dir != DMA_FROM_DEVICE)
		return -EACCES;
	/* There is nothing left that could be ended. */
	return vdmabuf_revoked(buf) ? 0 : vdmabuf_sync_end(buf, dir);
}

/* Life */

static int vdmabuf_buffer_unmap(struct vdmabuf_buffer *buf)
{
	if (!test_and_clear_bit(VDMABUF_HELD_MAPPING, &buf->held))
		return 0;
	return vdmabuf_unmap(buf->vd, buf->session, buf->mapping);
}

static void vdmabuf_release_work(struct work_struct *work)
{
	struct vdmabuf_buffer *buf = container_of(work, struct vdmabuf_buffer, release);

	/* If the host can't be told, the handle ends with the session. */
	if (!vdmabuf_buffer_unmap(buf) &&
	    test_and_clear_bit(VDMABUF_HELD_HANDLE, &buf->held))
		vdmabuf_close(buf->vd, buf->session, buf->handle);
	vdmabuf_window_put(buf->win);
	put_device(&buf->vd->dev);
	kfree(buf);
}

static void vdmabuf_release(struct dma_buf *dmabuf)
{
	struct vdmabuf_buffer *buf = dmabuf->priv;

	/* Under the lock: the mapping is either found in the list or flushed. */
	mutex_lock(&vdmabuf_lock);
	list_del(&buf->node);
	queue_work(vdmabuf_wq, &buf->release);
	mutex_unlock(&vdmabuf_lock);
}

#define VDMABUF_OPS						\
	.attach = vdmabuf_attach,				\
	.map_dma_buf = vdmabuf_map,				\
	.unmap_dma_buf = vdmabuf_unmap_sgt,			\
	.begin_cpu_access = vdmabuf_begin_cpu_access,		\
	.end_cpu_access = vdmabuf_end_cpu_access,		\
	.mmap = vdmabuf_mmap,					\
	.release = vdmabuf_release

static const struct dma_buf_ops vdmabuf_ops = {
	VDMABUF_OPS,
	.vmap = vdmabuf_vmap,
	.vunmap = vdmabuf_vunmap,
};

/* dma_buf_vmap() takes an error of the operation for a bug, but not its absence. */
static const struct dma_buf_ops vdmabuf_no_vmap_ops = {
	VDMABUF_OPS,
};

/**
 * vdmabuf_buffer_of - the buffer behind a dma-buf
 * @dmabuf: any dma-buf, with a reference
 *
 * Return: the buffer; or NULL: it is none of this driver.
 */
struct vdmabuf_buffer *vdmabuf_buffer_of(struct dma_buf *dmabuf)
{
	return dmabuf->ops->release == vdmabuf_release ? dmabuf->priv : NULL;
}

/**
 * vdmabuf_buffer_get - the buffer behind a dma-buf fd
 * @vd: the device
 * @fd: any fd
 *
 * Return: the buffer, whose dma-buf the caller gives back; or an error pointer: -EINVAL
 * for what isn't a dma-buf of this device.
 */
struct vdmabuf_buffer *vdmabuf_buffer_get(struct vdmabuf_device *vd, int fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);
	struct vdmabuf_buffer *buf;

	if (IS_ERR(dmabuf))
		return ERR_CAST(dmabuf);
	buf = vdmabuf_buffer_of(dmabuf);
	if (buf && buf->vd == vd)
		return buf;
	dma_buf_put(dmabuf);
	return ERR_PTR(-EINVAL);
}

/* The caller holds vdmabuf_lock, so the buffer can't be released meanwhile. */
static void vdmabuf_revoke(struct vdmabuf_buffer *buf)
{
	struct file *file;

	down_write(&buf->lock);
	buf->revoked = true;
	up_write(&buf->lock);

	/* Without a file there are no mappings: the last reference is gone. */
	file = get_file_active(&buf->dmabuf->file);
	if (!file)
		return;
	unmap_mapping_range(file->f_mapping, 0, 0, 1);
	fput(file);
}

/**
 * vdmabuf_buffers_revoke - takes the memory away from buffers
 * @vd: those of this device, or NULL
 * @win: those in this window, or NULL
 *
 * The caller has made sure that no buffer can be added: the session is over, or
 * the window isn't present any more.
 */
void vdmabuf_buffers_revoke(struct vdmabuf_device *vd, struct vdmabuf_window *win)
{
	struct vdmabuf_buffer *buf;

	mutex_lock(&vdmabuf_lock);
	list_for_each_entry(buf, &vdmabuf_buffers, node)
		if (buf->vd == vd || buf->win == win)
			vdmabuf_revoke(buf);
	mutex_unlock(&vdmabuf_lock);
}

/* Finds a buffer of @vd that is still mapped in the dynamic window. */
static bool vdmabuf_take_mapping(struct vdmabuf_device *vd, u64 *session, u64 *mapping)
{
	struct vdmabuf_buffer *buf;
	bool found = false;

	mutex_lock(&vdmabuf_lock);
	list_for_each_entry(buf, &vdmabuf_buffers, node) {
		if (buf->vd != vd || !uuid_is_null(&buf->win->uuid) ||
		    !test_and_clear_bit(VDMABUF_HELD_MAPPING, &buf->held))
			continue;
		*session = buf->session;
		*mapping = buf->mapping;
		found = true;
		break;
	}
	mutex_unlock(&vdmabuf_lock);
	return found;
}

/**
 * vdmabuf_buffers_unmap - has the host unmap what is in the dynamic window
 * @vd: the device, after vdmabuf_buffers_revoke()
 */
void vdmabuf_buffers_unmap(struct vdmabuf_device *vd)
{
	u64 session, mapping;

	while (vdmabuf_take_mapping(vd, &session, &mapping))
		vdmabuf_unmap(vd, session, mapping);
}

/* What a buffer holds on the host */
struct vdmabuf_held {
	u64 session;
	u64 handle;
	u64 mapping;
	bool mapped;
};

/* Finds a revoked buffer that nobody uses, and takes over what it holds. */
static bool vdmabuf_take_handle(struct vdmabuf_device *vd, u64 id,
				struct vdmabuf_held *taken)
{
	struct vdmabuf_buffer *buf;
	bool found = false;

	mutex_lock(&vdmabuf_lock);
	list_for_each_entry(buf, &vdmabuf_buffers, node) {
		if (buf->vd != vd || buf->id != id || !buf->revoked ||
		    atomic_read(&buf->users) ||
		    !test_and_clear_bit(VDMABUF_HELD_HANDLE, &buf->held))
			continue;
		taken->mapped = test_and_clear_bit(VDMABUF_HELD_MAPPING, &buf->held);
		taken->session = buf->session;
		taken->mapping = buf->mapping;
		taken->handle = buf->handle;
		found = true;
		break;
	}
	mutex_unlock(&vdmabuf_lock);
	return found;
}

/**
 * vdmabuf_buffers_take - revokes the dma-bufs of a buffer of the host, and gives back
 *			  what they hold there
 * @vd: the device
 * @id: the buffer's number on the host
 *
 * What a device of this guest still uses is given back with its dma-buf. What this
 * guest has allocated stays.
 *
 * Context: process context, may sleep.
 */
void vdmabuf_buffers_take(struct vdmabuf_device *vd, u64 id)
{
	struct vdmabuf_buffer *buf;
	struct vdmabuf_held taken;

	mutex_lock(&vdmabuf_lock);
	list_for_each_entry(buf, &vdmabuf_buffers, node)
		if (buf->vd == vd && buf->id == id && !buf->own)
			vdmabuf_revoke(buf);
	mutex_unlock(&vdmabuf_lock);

	while (vdmabuf_take_handle(vd, id, &taken))
		if (!taken.mapped || !vdmabuf_unmap(vd, taken.session, taken.mapping))
			vdmabuf_close(vd, taken.session, taken.handle);
}

/**
 * vdmabuf_buffer_alloc - a buffer that is neither opened nor mapped
 * @vd: its device
 * @session: its session
 *
 * Return: the buffer, to be freed by kfree() or by vdmabuf_export(); or NULL.
 */
struct vdmabuf_buffer *vdmabuf_buffer_alloc(struct vdmabuf_device *vd, u64 session)
{
	struct vdmabuf_buffer *buf = kzalloc(sizeof(*buf), GFP_KERNEL);

	if (!buf)
		return NULL;
	buf->vd = vd;
	buf->session = session;
	init_rwsem(&buf->lock);
	INIT_WORK(&buf->release, vdmabuf_release_work);
	return buf;
}

/**
 * vdmabuf_export - makes a dma-buf of a buffer
 * @buf: the buffer, opened and mapped on the host; it belongs to the dma-buf from
 *	 now on, also after an error
 *
 * Return: the dma-buf with a reference, or an error pointer; -EIO if the session
 * or the window has gone meanwhile.
 */
struct dma_buf *vdmabuf_export(struct vdmabuf_buffer *buf)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;
	bool gone;

	info.ops = buf->writable ? &vdmabuf_ops : &vdmabuf_no_vmap_ops;
	info.size = buf->size;
	info.flags = buf->fd_flags;
	info.exp_name = buf->exporter;
	info.priv = buf;

	mutex_lock(&vdmabuf_lock);
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		mutex_unlock(&vdmabuf_lock);
		queue_work(vdmabuf_wq, &buf->release);
		return dmabuf;
	}
	buf->dmabuf = dmabuf;
	list_add_tail(&buf->node, &vdmabuf_buffers);
	gone = !buf->win->present || !vdmabuf_session_is(buf->vd, buf->session);
	mutex_unlock(&vdmabuf_lock);
	if (!gone)
		return dmabuf;
	/* Too late to be found by vdmabuf_buffers_revoke(). */
	vdmabuf_buffer_unmap(buf);
	dma_buf_put(dmabuf);
	return ERR_PTR(-EIO);
}
