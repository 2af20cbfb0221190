// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: windows.
 *
 * The dynamic window is shared memory region 0 of the virtio device. A static
 * window is BAR 2 of an ivshmem device, which the PCI driver in this file binds
 * if the first page of the BAR carries the magic.
 *
 * A window has struct pages, so that devices of the guest can import aliases.
 * It stays as long as a buffer in it does, even after its device was unbound:
 * until then its pages may be in a scatter list.
 */
#include <linux/io.h>
#include <linux/memremap.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

#include "vdmabuf.h"

#define VDMABUF_IVSHMEM_VENDOR	0x1af4
#define VDMABUF_IVSHMEM_DEVICE	0x1110
#define VDMABUF_IVSHMEM_BAR	2

/*
 * Guards the list of windows, the list of buffers, and what ties them together:
 * whether a window is present when a buffer is put into it.
 */
DEFINE_MUTEX(vdmabuf_lock);

static LIST_HEAD(vdmabuf_windows);

/* The caller holds vdmabuf_lock, and doesn't any more afterwards. */
static void vdmabuf_window_release(struct kref *ref)
{
	struct vdmabuf_window *win = container_of(ref, struct vdmabuf_window, ref);

	list_del(&win->node);
	/* No buffer is left, so nobody has a reference to a page. */
	if (win->vaddr)
		memunmap_pages(&win->pgmap);
	mutex_unlock(&vdmabuf_lock);
	kfree(win);
}

/**
 * vdmabuf_window_get - takes a reference
 * @win: a window that the caller has a reference to
 */
void vdmabuf_window_get(struct vdmabuf_window *win)
{
	kref_get(&win->ref);
}

/**
 * vdmabuf_window_put - drops a reference
 * @win: the window
 */
void vdmabuf_window_put(struct vdmabuf_window *win)
{
	kref_put_mutex(&win->ref, vdmabuf_window_release, &vdmabuf_lock);
}

/* Gives the window struct pages, if it can have them. */
static void vdmabuf_window_map(struct vdmabuf_window *win)
{
	void *vaddr;

	if (!IS_ALIGNED(win->start | win->size, memremap_compat_align())) {
		pr_info("virtio_dmabuf: window at %pa is not aligned to %lu KiB: no device of this guest can import from it\n",
			&win->start, memremap_compat_align() >> 10);
		return;
	}
	win->pgmap.type = MEMORY_DEVICE_GENERIC;
	win->pgmap.range.start = win->start;
	win->pgmap.range.end = win->start + win->size - 1;
	win->pgmap.nr_range = 1;
	win->pgmap.owner = win;
	vaddr = memremap_pages(&win->pgmap, NUMA_NO_NODE);
	if (IS_ERR(vaddr)) {
		pr_warn("virtio_dmabuf: window at %pa gets no struct pages (%pe): no device of this guest can import from it\n",
			&win->start, vaddr);
		return;
	}
	win->vaddr = vaddr;
}

static struct vdmabuf_window *vdmabuf_window_new(phys_addr_t start, u64 size)
{
	struct vdmabuf_window *win = kzalloc(sizeof(*win), GFP_KERNEL);

	if (!win)
		return ERR_PTR(-ENOMEM);
	kref_init(&win->ref);
	win->start = start;
	win->size = size;
	vdmabuf_window_map(win);
	list_add_tail(&win->node, &vdmabuf_windows);
	return win;
}

/**
 * vdmabuf_window_add - makes a window known
 * @start: first guest-physical address, page-aligned
 * @size: bytes, whole pages
 * @uuid: which static window it is, or &uuid_null for a dynamic one
 *
 * A window that was removed, and is still here because of buffers, comes back.
 *
 * Return: the window, with a reference that vdmabuf_window_remove() takes;
 * -EBUSY if the range overlaps another window; -ENOMEM.
 */
struct vdmabuf_window *vdmabuf_window_add(phys_addr_t start, u64 size,
					  const uuid_t *uuid)
{
	struct vdmabuf_window *win, *found = NULL;

	mutex_lock(&vdmabuf_lock);
	list_for_each_entry(win, &vdmabuf_windows, node) {
		if (start + size <= win->start || win->start + win->size <= start)
			continue;
		if (win->present || win->start != start || win->size != size) {
			found = ERR_PTR(-EBUSY);
			break;
		}
		kref_get(&win->ref);
		found = win;
		break;
	}
	if (!found)
		found = vdmabuf_window_new(start, size);
	if (!IS_ERR(found)) {
		uuid_copy(&found->uuid, uuid);
		found->present = true;
	}
	mutex_unlock(&vdmabuf_lock);
	return found;
}

/**
 * vdmabuf_window_remove - the device behind a window goes away
 * @win: a window from vdmabuf_window_add()
 *
 * Its buffers can't be used any more afterwards.
 */
void vdmabuf_window_remove(struct vdmabuf_window *win)
{
	mutex_lock(&vdmabuf_lock);
	win->present = false;
	mutex_unlock(&vdmabuf_lock);
	vdmabuf_buffers_revoke(NULL, win);
	vdmabuf_window_put(win);
}

/**
 * vdmabuf_window_find - finds a static window
 * @uuid: its uuid, not nil
 *
 * Return: the window with a reference, or NULL.
 */
struct vdmabuf_window *vdmabuf_window_find(const uuid_t *uuid)
{
	struct vdmabuf_window *win, *found = NULL;

	if (uuid_is_null(uuid))
		return NULL;
	mutex_lock(&vdmabuf_lock);
	list_for_each_entry(win, &vdmabuf_windows, node) {
		if (win->present && uuid_equal(&win->uuid, uuid)) {
			kref_get(&win->ref);
			found = win;
			break;
		}
	}
	mutex_unlock(&vdmabuf_lock);
	return found;
}

/* Reads the header page. Returns -ENODEV if this is somebody else's ivshmem. */
static int vdmabuf_window_header(struct pci_dev *pdev, uuid_t *uuid)
{
	resource_size_t len = pci_resource_len(pdev, VDMABUF_IVSHMEM_BAR);
	struct virtio_dmabuf_window header;
	void *page;

	if (len < 2 * PAGE_SIZE)
		return -ENODEV;
	page = memremap(pci_resource_start(pdev, VDMABUF_IVSHMEM_BAR), PAGE_SIZE,
			MEMREMAP_WB);
	if (!page)
		return -ENOMEM;
	memcpy(&header, page, sizeof(header));
	memunmap(page);

	if (memcmp(header.magic, VIRTIO_DMABUF_WINDOW_MAGIC, sizeof(header.magic)))
		return -ENODEV;
	if (le32_to_cpu(header.version) != VIRTIO_DMABUF_VERSION) {
		pci_err(pdev, "window version %u, this driver knows %u\n",
			le32_to_cpu(header.version), VIRTIO_DMABUF_VERSION);
		return -ENODEV;
	}
	import_uuid(uuid, header.uuid);
	if (uuid_is_null(uuid) || le64_to_cpu(header.size) != len) {
		pci_err(pdev, "window header says %llu bytes, BAR %d has %pa\n",
			le64_to_cpu(header.size), VDMABUF_IVSHMEM_BAR, &len);
		return -ENODEV;
	}
	return 0;
}

static int vdmabuf_window_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vdmabuf_window *win;
	uuid_t uuid;
	int err;

	err = pci_enable_device_mem(pdev);
	if (err)
		return err;
	err = pci_request_region(pdev, VDMABUF_IVSHMEM_BAR, "virtio_dmabuf");
	if (err)
		goto disable;
	err = vdmabuf_window_header(pdev, &uuid);
	if (err)
		goto release;
	win = vdmabuf_window_add(pci_resource_start(pdev, VDMABUF_IVSHMEM_BAR),
				 pci_resource_len(pdev, VDMABUF_IVSHMEM_BAR), &uuid);
	if (IS_ERR(win)) {
		err = PTR_ERR(win);
		goto release;
	}
	pci_set_drvdata(pdev, win);
	pci_info(pdev, "static window %pUb of %llu KiB\n", &uuid, win->size >> 10);
	return 0;

release:
	pci_release_region(pdev, VDMABUF_IVSHMEM_BAR);
disable:
	pci_disable_device(pdev);
	return err;
}

static void vdmabuf_window_unbind(struct pci_dev *pdev)
{
	vdmabuf_window_remove(pci_get_drvdata(pdev));
	pci_release_region(pdev, VDMABUF_IVSHMEM_BAR);
	pci_disable_device(pdev);
}

static const struct pci_device_id vdmabuf_window_ids[] = {
	{ PCI_DEVICE(VDMABUF_IVSHMEM_VENDOR, VDMABUF_IVSHMEM_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, vdmabuf_window_ids);

static struct pci_driver vdmabuf_window_driver = {
	.name = "virtio_dmabuf_window",
	.id_table = vdmabuf_window_ids,
	.probe = vdmabuf_window_probe,
	.remove = vdmabuf_window_unbind,
};

/**
 * vdmabuf_window_init - starts to look for static windows
 *
 * Return: 0 or an error.
 */
int vdmabuf_window_init(void)
{
	return pci_register_driver(&vdmabuf_window_driver);
}

/**
 * vdmabuf_window_exit - the opposite of vdmabuf_window_init()
 */
void vdmabuf_window_exit(void)
{
	pci_unregister_driver(&vdmabuf_window_driver);
}
