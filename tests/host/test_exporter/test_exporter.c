// SPDX-License-Identifier: GPL-2.0-only
/*
 * An exporter for tests. It undoes, in mmap(), what makes a mapping read-only,
 * as a careless exporter would; and it tells what it was asked for.
 */
#include <linux/atomic.h>
#include <linux/dma-buf.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "test_exporter.h"

struct memory {
	void *bytes;
	size_t size;
	u32 kind;
};

static atomic64_t buffers, mappings, write_syncs;

static void opened(struct vm_area_struct *vma)
{
	atomic64_inc(&mappings);
}

static void closed(struct vm_area_struct *vma)
{
	atomic64_dec(&mappings);
}

static const struct vm_operations_struct plain_vm_ops = {
	.open = opened,
	.close = closed,
};

static int access(struct vm_area_struct *vma, unsigned long addr, void *buf,
		  int len, int write)
{
	struct memory *memory = vma->vm_private_data;
	size_t offset = addr - vma->vm_start + (vma->vm_pgoff << PAGE_SHIFT);

	if (offset >= memory->size)
		return -EINVAL;
	len = min_t(size_t, len, memory->size - offset);
	if (write)
		memcpy(memory->bytes + offset, buf, len);
	else
		memcpy(buf, memory->bytes + offset, len);
	return len;
}

/* Without pages of its own, as a mapping of device memory. */
static vm_fault_t access_fault(struct vm_fault *vmf)
{
	struct memory *memory = vmf->vma->vm_private_data;
	size_t offset = vmf->pgoff << PAGE_SHIFT;

	if (offset >= memory->size)
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn(vmf->vma, vmf->address,
			      vmalloc_to_pfn(memory->bytes + offset));
}

static const struct vm_operations_struct access_vm_ops = {
	.open = opened,
	.close = closed,
	.access = access,
	.fault = access_fault,
};

/* Not remap_vmalloc_range(): that keeps the mapping from growing. */
static int insert_pages(struct vm_area_struct *vma, struct memory *memory)
{
	size_t offset = vma->vm_pgoff << PAGE_SHIFT;
	unsigned long addr;
	int ret = 0;

	for (addr = vma->vm_start; addr < vma->vm_end && !ret; addr += PAGE_SIZE) {
		ret = vm_insert_page(vma, addr, vmalloc_to_page(memory->bytes + offset));
		offset += PAGE_SIZE;
	}
	return ret;
}

static int test_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct memory *memory = dmabuf->priv;
	int ret = 0;

	vma->vm_private_data = memory;
	vma->vm_ops = &plain_vm_ops;
	switch (memory->kind) {
	case TEST_EXPORTER_MAYWRITE:
		vm_flags_set(vma, VM_MAYWRITE);
		break;
	case TEST_EXPORTER_WRITE:
		vm_flags_set(vma, VM_WRITE);
		break;
	case TEST_EXPORTER_SHARED:
		vm_flags_set(vma, VM_SHARED);
		break;
	case TEST_EXPORTER_PROT:
		vma->vm_page_prot = vm_get_page_prot(VM_READ | VM_WRITE | VM_SHARED);
		break;
	case TEST_EXPORTER_ACCESS:
		vm_flags_set(vma, VM_PFNMAP | VM_DONTEXPAND);
		vma->vm_ops = &access_vm_ops;
		break;
	}
	if (memory->kind != TEST_EXPORTER_ACCESS)
		ret = insert_pages(vma, memory);
	if (!ret)
		opened(vma);
	return ret;
}

static int test_begin_cpu_access(struct dma_buf *dmabuf,
				 enum dma_data_direction direction)
{
	if (direction != DMA_FROM_DEVICE)
		atomic64_inc(&write_syncs);
	return 0;
}

static struct sg_table *test_map(struct dma_buf_attachment *attachment,
				 enum dma_data_direction direction)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void test_unmap(struct dma_buf_attachment *attachment,
		       struct sg_table *table, enum dma_data_direction direction)
{
}

static void test_release(struct dma_buf *dmabuf)
{
	struct memory *memory = dmabuf->priv;

	vfree(memory->bytes);
	kfree(memory);
	atomic64_dec(&buffers);
}

static const struct dma_buf_ops test_dmabuf_ops = {
	.map_dma_buf = test_map,
	.unmap_dma_buf = test_unmap,
	.begin_cpu_access = test_begin_cpu_access,
	.mmap = test_mmap,
	.release = test_release,
};

static long export(struct test_exporter_export __user *arg)
{
	struct test_exporter_export request;
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;
	struct memory memory, *kept;
	int fd;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.kind >= TEST_EXPORTER_KINDS || !request.size ||
	    request.size > SZ_16M || request.size & ~PAGE_MASK)
		return -EINVAL;

	memory.kind = request.kind;
	memory.size = request.size;
	memory.bytes = vmalloc_user(memory.size);
	kept = kmemdup(&memory, sizeof(memory), GFP_KERNEL);
	if (!memory.bytes || !kept) {
		vfree(memory.bytes);
		kfree(kept);
		return -ENOMEM;
	}
	info.ops = &test_dmabuf_ops;
	info.size = kept->size;
	info.flags = O_RDWR;
	info.priv = kept;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		vfree(memory.bytes);
		kfree(kept);
		return PTR_ERR(dmabuf);
	}
	atomic64_inc(&buffers);
	fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (fd < 0) {
		dma_buf_put(dmabuf);
		return fd;
	}
	return put_user(fd, &arg->fd);
}

static long seen(struct test_exporter_seen __user *arg)
{
	struct test_exporter_seen seen = {
		.buffers = atomic64_read(&buffers),
		.mappings = atomic64_read(&mappings),
		.write_syncs = atomic64_read(&write_syncs),
	};

	return copy_to_user(arg, &seen, sizeof(seen)) ? -EFAULT : 0;
}

static long test_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case TEST_EXPORTER_EXPORT:
		return export((void __user *)arg);
	case TEST_EXPORTER_SEEN:
		return seen((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations test_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = test_ioctl,
};

static struct miscdevice test_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "test-exporter",
	.fops = &test_fops,
	.mode = 0600,
};
module_misc_device(test_device);

MODULE_INFO(import_ns, "DMA_BUF");
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("dma-bufs of a careless exporter, for tests");
