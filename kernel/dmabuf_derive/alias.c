// SPDX-License-Identifier: GPL-2.0-only
/*
 * The alias: a file type of its own around a reference to a dma-buf.
 *
 * No importer accepts it, because dma_buf_get() takes files of dma-bufs only.
 * What its holder can do is what is in this file, and all of it is checked
 * against the alias's own access, never against that of the dma-buf's file.
 *
 * What a read-only alias does not promise: SYNC for READ may drop the CPU's
 * cached copy of the buffer where a device that isn't cache coherent is
 * attached. Bytes that the producer's CPU is writing at that moment belong into
 * a SYNC bracket and behind a fence, as with any dma-buf.
 */
#include <linux/anon_inodes.h>
#include <linux/dma-buf.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/poll.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <uapi/linux/dma-buf.h>

#include "alias.h"
#include "uapi/dmabuf_derive.h"

static int alias_release(struct inode *inode, struct file *file)
{
	struct alias *alias = file->private_data;

	dma_buf_put(alias->dmabuf);
	kfree(alias);
	return 0;
}

/*
 * Whether a mapping can't be written, now or later, by any of the kernel's ways:
 * - VM_WRITE: stores; VM_MAYWRITE: mprotect(), and writes that are forced
 *   through /proc/PID/mem or ptrace();
 * - VM_SHARED: remap_file_pages() maps anew, by the mapping's file. That is the
 *   dma-buf's own file, whose access is the producer's;
 * - vm_page_prot: what the exporter's page tables are filled from;
 * - access(): ptrace() and /proc/PID/mem use it where there are no pages, and
 *   nobody but the exporter could check the mapping's access there.
 */
static bool stays_read_only(struct vm_area_struct *vma)
{
	return !(vma->vm_flags & (VM_WRITE | VM_MAYWRITE | VM_SHARED)) &&
	       !pte_write(pfn_pte(0, vma->vm_page_prot)) &&
	       !(vma->vm_ops && vma->vm_ops->access);
}

static int alias_mmap_read_only(struct alias *alias, struct vm_area_struct *vma)
{
	struct dma_buf *dmabuf = alias->dmabuf;
	int ret;

	if ((vma->vm_flags & VM_WRITE) &&
	    !(alias->options & DMABUF_DERIVE_MAP_WRITABLE_AS_READONLY))
		return -EACCES;

	vm_flags_clear(vma, VM_WRITE | VM_MAYWRITE | VM_SHARED);
	vma->vm_page_prot = vm_get_page_prot(vma->vm_flags);

	ret = dma_buf_mmap(dmabuf, vma, vma->vm_pgoff);
	if (ret)
		return ret;

	/* The exporter has the last word on a mapping, and may have undone it. */
	if (stays_read_only(vma))
		return 0;
	pr_warn_ratelimited("read-only mapping refused: exporter %s can't be kept from writing through it; share this buffer by another route\n",
			    dmabuf->exp_name);
	/* The kernel does not call it for a mapping that failed. */
	if (vma->vm_ops && vma->vm_ops->close)
		vma->vm_ops->close(vma);
	return -EACCES;
}

static int alias_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct alias *alias = file->private_data;

	/*
	 * VM_SHARED is no use here: the kernel has cleared it already where the
	 * file isn't writable. A private mapping would be the holder's own copy.
	 */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;

	/* dma_buf_mmap() checks the length once, so it has to stay. */
	vm_flags_set(vma, VM_DONTEXPAND);

	if (alias->writable)
		return dma_buf_mmap(alias->dmabuf, vma, vma->vm_pgoff);
	return alias_mmap_read_only(alias, vma);
}

/*
 * Not handed to the dma-buf's own ioctl: that reads the flags from user memory
 * again, where they could be others by now.
 */
static long alias_sync(struct alias *alias, unsigned long arg)
{
	enum dma_data_direction direction;
	struct dma_buf_sync sync;

	if (copy_from_user(&sync, (void __user *)arg, sizeof(sync)))
		return -EFAULT;
	if (sync.flags & ~DMA_BUF_SYNC_VALID_FLAGS_MASK)
		return -EINVAL;
	if ((sync.flags & DMA_BUF_SYNC_WRITE) && !alias->writable)
		return -EACCES;

	switch (sync.flags & DMA_BUF_SYNC_RW) {
	case DMA_BUF_SYNC_READ:
		direction = DMA_FROM_DEVICE;
		break;
	case DMA_BUF_SYNC_WRITE:
		direction = DMA_TO_DEVICE;
		break;
	case DMA_BUF_SYNC_RW:
		direction = DMA_BIDIRECTIONAL;
		break;
	default:
		return -EINVAL;
	}

	if (sync.flags & DMA_BUF_SYNC_END)
		return dma_buf_end_cpu_access(alias->dmabuf, direction);
	return dma_buf_begin_cpu_access(alias->dmabuf, direction);
}

static long dmabuf_ioctl(struct dma_buf *dmabuf, unsigned int cmd,
			 unsigned long arg)
{
	return dmabuf->file->f_op->unlocked_ioctl(dmabuf->file, cmd, arg);
}

static long alias_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct alias *alias = file->private_data;

	switch (cmd) {
	case DMA_BUF_IOCTL_SYNC:
		return alias_sync(alias, arg);

	/*
	 * Hands out fences and changes nothing, whichever kind of access is
	 * asked about: "may I write?" is answered with all fences, "may I read?"
	 * with the writers' only.
	 */
	case DMA_BUF_IOCTL_EXPORT_SYNC_FILE:
		return dmabuf_ioctl(alias->dmabuf, cmd, arg);

	/*
	 * Not as a reader either: the producer waits for readers' fences, and a
	 * read-only holder could make it wait for ever.
	 */
	case DMA_BUF_IOCTL_IMPORT_SYNC_FILE:
		if (!alias->writable)
			return -EACCES;
		return dmabuf_ioctl(alias->dmabuf, cmd, arg);

	/* The name is the producer's, so no DMA_BUF_SET_NAME. */
	default:
		return -ENOTTY;
	}
}

/*
 * EPOLLIN: the writers are done; EPOLLOUT: the readers are, too. A read-only
 * alias is never ready for writing.
 */
static __poll_t alias_poll(struct file *file, struct poll_table_struct *table)
{
	struct alias *alias = file->private_data;
	__poll_t asked, ready;

	if (alias->writable)
		return vfs_poll(alias->dmabuf->file, table);
	if (!table)
		return vfs_poll(alias->dmabuf->file, NULL) & ~EPOLLOUT;

	/* Else the dma-buf would start to wait for the readers. */
	asked = table->_key;
	table->_key &= ~EPOLLOUT;
	ready = vfs_poll(alias->dmabuf->file, table);
	table->_key = asked;
	return ready & ~EPOLLOUT;
}

/* As of dma-bufs: SEEK_END tells the size, SEEK_SET allows for going back. */
static loff_t alias_llseek(struct file *file, loff_t offset, int whence)
{
	struct alias *alias = file->private_data;

	if (offset)
		return -EINVAL;
	switch (whence) {
	case SEEK_SET:
		return 0;
	case SEEK_END:
		return alias->dmabuf->size;
	default:
		return -EINVAL;
	}
}

static void alias_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct alias *alias = file->private_data;
	struct dma_buf *dmabuf = alias->dmabuf;

	seq_printf(m, "size:\t%zu\n", dmabuf->size);
	seq_printf(m, "access:\t%s\n", alias->writable ? "rw" : "ro");
	seq_printf(m, "options:\t%#x\n", alias->options);
	seq_printf(m, "exp_name:\t%s\n", dmabuf->exp_name);
	seq_printf(m, "dmabuf_ino:\t%lu\n",
		   (unsigned long)file_inode(dmabuf->file)->i_ino);
}

static const struct file_operations alias_fops = {
	.owner = THIS_MODULE,
	.release = alias_release,
	.mmap = alias_mmap,
	.unlocked_ioctl = alias_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = alias_poll,
	.llseek = alias_llseek,
	.show_fdinfo = alias_show_fdinfo,
};

struct file *alias_create(struct dma_buf *dmabuf, bool writable, u32 options)
{
	const struct alias new = {
		.dmabuf = dmabuf,
		.writable = writable,
		.options = options,
	};
	bool lenient = options & DMABUF_DERIVE_MAP_WRITABLE_AS_READONLY;
	struct alias *alias;
	struct file *file;

	alias = kmemdup(&new, sizeof(new), GFP_KERNEL_ACCOUNT);
	if (!alias)
		return ERR_PTR(-ENOMEM);

	/* mmap() refuses writable requests by the file's mode: let them come. */
	file = anon_inode_getfile("[dmabuf-alias]", &alias_fops, alias,
				  writable || lenient ? O_RDWR : O_RDONLY);
	if (IS_ERR(file)) {
		kfree(alias);
		return file;
	}
	get_dma_buf(dmabuf);
	return file;
}

struct alias *alias_of(struct file *file)
{
	return file->f_op == &alias_fops ? file->private_data : NULL;
}
