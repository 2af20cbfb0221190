// SPDX-License-Identifier: GPL-2.0-only
/*
 * A source of fences for tests, as vgem is one, but they can end with an error. An
 * open file is one fence. It holds up its dma-buf until the file says otherwise, so
 * this is nothing for a machine that is used.
 */
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "error_fence.h"

struct error_fence {
	struct dma_fence base;
	spinlock_t lock;
};

struct source {
	struct mutex lock;
	struct dma_fence *fence;
	bool ended;
};

static const char *fence_name(struct dma_fence *base)
{
	return "error-fence";
}

static void fence_release(struct dma_fence *base)
{
	dma_fence_free(base);
	module_put(THIS_MODULE);
}

static const struct dma_fence_ops fence_ops = {
	.get_driver_name = fence_name,
	.get_timeline_name = fence_name,
	.release = fence_release,
};

static struct dma_fence *fence_new(void)
{
	struct error_fence *fence = kzalloc(sizeof(*fence), GFP_KERNEL);

	if (!fence)
		return NULL;
	__module_get(THIS_MODULE);
	spin_lock_init(&fence->lock);
	dma_fence_init(&fence->base, &fence_ops, &fence->lock, dma_fence_context_alloc(1), 1);
	return &fence->base;
}

/* The caller holds source->lock. */
static void source_end(struct source *source, int err)
{
	if (!source->fence || source->ended)
		return;
	if (err)
		dma_fence_set_error(source->fence, -err);
	dma_fence_signal(source->fence);
	source->ended = true;
}

static int source_attach(struct source *source, const struct error_fence_attach *arg)
{
	struct dma_buf *dmabuf = dma_buf_get(arg->fd);
	int err;

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	err = -EBUSY;
	if (source->fence)
		goto put;
	err = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (err)
		goto put;
	err = dma_resv_reserve_fences(dmabuf->resv, 1);
	if (!err) {
		source->fence = fence_new();
		err = source->fence ? 0 : -ENOMEM;
	}
	if (!err)
		dma_resv_add_fence(dmabuf->resv, source->fence,
				   arg->write ? DMA_RESV_USAGE_WRITE : DMA_RESV_USAGE_READ);
	dma_resv_unlock(dmabuf->resv);
put:
	dma_buf_put(dmabuf);
	return err;
}

static long source_ioctl(struct file *file, unsigned int cmd, unsigned long uarg)
{
	struct source *source = file->private_data;
	struct error_fence_attach attach;
	u32 error;
	int err = 0;

	switch (cmd) {
	case ERROR_FENCE_ATTACH:
		if (copy_from_user(&attach, (void __user *)uarg, sizeof(attach)))
			return -EFAULT;
		break;
	case ERROR_FENCE_SIGNAL:
		if (copy_from_user(&error, (void __user *)uarg, sizeof(error)))
			return -EFAULT;
		if (error > MAX_ERRNO)
			return -EINVAL;
		break;
	default:
		return -ENOTTY;
	}
	mutex_lock(&source->lock);
	if (cmd == ERROR_FENCE_ATTACH)
		err = source_attach(source, &attach);
	else
		source_end(source, error);
	mutex_unlock(&source->lock);
	return err;
}

static int source_open(struct inode *inode, struct file *file)
{
	struct source *source = kzalloc(sizeof(*source), GFP_KERNEL);

	if (!source)
		return -ENOMEM;
	mutex_init(&source->lock);
	file->private_data = source;
	return 0;
}

static int source_close(struct inode *inode, struct file *file)
{
	struct source *source = file->private_data;

	source_end(source, ENODEV);
	dma_fence_put(source->fence);
	kfree(source);
	return 0;
}

static const struct file_operations source_fops = {
	.owner = THIS_MODULE,
	.open = source_open,
	.release = source_close,
	.unlocked_ioctl = source_ioctl,
};

static struct miscdevice source_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "error-fence",
	.fops = &source_fops,
	.mode = 0600,
};
module_misc_device(source_device);

MODULE_INFO(import_ns, "DMA_BUF");
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("fences that end with an error, for tests");
