// SPDX-License-Identifier: GPL-2.0-only
/*
 * Names under /dev/dma_heap for the virtio dmabuf guest driver.
 *
 * Linux has no opposite of dma_heap_add(), and an open heap holds no module. So
 * the names live in a module of their own that stays once it has added one, and
 * the driver can come and go: a heap whose device is gone answers ENODEV, and the
 * next device with a heap of that name takes it over.
 */
#include <linux/dma-heap.h>
#include <linux/err.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/slab.h>

#include "virtio_dmabuf_heaps.h"

/* Linux has 128 minors for all heaps. A host can't fill them by new names. */
#define VDMABUF_HEAP_NODES	64

/**
 * struct vdmabuf_heap_node - a name under /dev/dma_heap; never freed
 * @node: in the list of all
 * @heap: what Linux made of it
 * @name: its name
 * @taken: a device has it; under vdmabuf_heap_lock
 * @lock: guards @allocate and @source; held for reading while something is allocated
 * @allocate: NULL while no device has it
 * @source: argument for @allocate
 */
struct vdmabuf_heap_node {
	struct list_head node;
	struct dma_heap *heap;
	char *name;
	bool taken;
	struct rw_semaphore lock;
	vdmabuf_heap_allocate_t allocate;
	void *source;
};

static LIST_HEAD(vdmabuf_heap_nodes);
static unsigned int vdmabuf_heap_count;
/* Guards the list, its length, and whether nodes are taken; nodes are only ever added. */
static DEFINE_MUTEX(vdmabuf_heap_lock);

static struct dma_buf *vdmabuf_heap_allocate(struct dma_heap *heap, unsigned long len,
					     u32 fd_flags, u64 heap_flags)
{
	struct dma_buf *dmabuf = ERR_PTR(-ENODEV);
	struct vdmabuf_heap_node *node, *found = NULL;

	mutex_lock(&vdmabuf_heap_lock);
	list_for_each_entry(node, &vdmabuf_heap_nodes, node)
		if (node->heap == heap)
			found = node;
	mutex_unlock(&vdmabuf_heap_lock);
	if (!found)
		return dmabuf;

	down_read(&found->lock);
	if (found->allocate)
		dmabuf = found->allocate(found->source, found->name, len, fd_flags);
	up_read(&found->lock);
	return dmabuf;
}

static const struct dma_heap_ops vdmabuf_heap_ops = {
	.allocate = vdmabuf_heap_allocate,
};

/* The caller holds vdmabuf_heap_lock: whoever opens it at once waits for the list. */
static struct vdmabuf_heap_node *vdmabuf_heap_new(const char *name)
{
	struct dma_heap_export_info info = { .ops = &vdmabuf_heap_ops };
	typeof(dma_heap_add) *add;
	struct vdmabuf_heap_node *node;
	int err = -ENOMEM;

	if (vdmabuf_heap_count == VDMABUF_HEAP_NODES)
		return ERR_PTR(-ENOSPC);
	node = kzalloc(sizeof(*node), GFP_KERNEL);
	if (!node)
		return ERR_PTR(-ENOMEM);
	init_rwsem(&node->lock);
	node->name = kstrdup(name, GFP_KERNEL);
	if (!node->name)
		goto free;
	/* Not linked: not every kernel exports it. */
	add = symbol_get(dma_heap_add);
	err = -EOPNOTSUPP;
	if (!add)
		goto free;
	info.name = node->name;
	node->heap = add(&info);
	symbol_put(dma_heap_add);
	err = PTR_ERR_OR_ZERO(node->heap);
	if (err)
		goto free;
	__module_get(THIS_MODULE);
	list_add_tail(&node->node, &vdmabuf_heap_nodes);
	vdmabuf_heap_count++;
	return node;

free:
	kfree(node->name);
	kfree(node);
	return ERR_PTR(err);
}

/* The heap of that name, which is made if there is none. The caller holds vdmabuf_heap_lock. */
static struct vdmabuf_heap_node *vdmabuf_heap_named(const char *name)
{
	struct vdmabuf_heap_node *node;

	list_for_each_entry(node, &vdmabuf_heap_nodes, node)
		if (!strcmp(node->name, name))
			return node;
	return vdmabuf_heap_new(name);
}

static void vdmabuf_heap_set(struct vdmabuf_heap_node *node,
			     vdmabuf_heap_allocate_t allocate, void *source)
{
	down_write(&node->lock);
	node->allocate = allocate;
	node->source = source;
	up_write(&node->lock);
}

static struct vdmabuf_heap_node *vdmabuf_heap_attach(const char *name,
						     vdmabuf_heap_allocate_t allocate,
						     void *source)
{
	struct vdmabuf_heap_node *node;
	unsigned int number = 0;
	char *full;

	mutex_lock(&vdmabuf_heap_lock);
	do {
		full = number ? kasprintf(GFP_KERNEL, "virtio%u-%s", number, name) :
				kasprintf(GFP_KERNEL, "virtio-%s", name);
		node = full ? vdmabuf_heap_named(full) : ERR_PTR(-ENOMEM);
		kfree(full);
		number++;
	} while (!IS_ERR(node) && node->taken);
	if (!IS_ERR(node)) {
		node->taken = true;
		vdmabuf_heap_set(node, allocate, source);
	}
	mutex_unlock(&vdmabuf_heap_lock);
	return node;
}

static void vdmabuf_heap_detach(struct vdmabuf_heap_node *node)
{
	/* Waits for what is being allocated, and holds up nobody else meanwhile. */
	vdmabuf_heap_set(node, NULL, NULL);
	mutex_lock(&vdmabuf_heap_lock);
	node->taken = false;
	mutex_unlock(&vdmabuf_heap_lock);
}

static const char *vdmabuf_heap_name(const struct vdmabuf_heap_node *node)
{
	return node->name;
}

const struct vdmabuf_heaps_api vdmabuf_heaps_api = {
	.attach = vdmabuf_heap_attach,
	.detach = vdmabuf_heap_detach,
	.name = vdmabuf_heap_name,
};
EXPORT_SYMBOL_GPL(vdmabuf_heaps_api);

MODULE_DESCRIPTION("virtio dmabuf: the host's heaps under /dev/dma_heap of a guest");
MODULE_LICENSE("GPL");
