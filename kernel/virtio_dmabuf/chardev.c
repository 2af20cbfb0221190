// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: /dev/virtio-dmabufN, its ioctls and its events.
 *
 * An open file keeps the module and the structures, not the device: once that is
 * gone every call fails with EIO.
 */
#include <linux/dma-buf.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/kfifo.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "stream.h"

#define VDMABUF_MINORS		64
/* Events that an open file keeps until they are read */
#define VDMABUF_CLIENT_EVENTS	64

/**
 * struct vdmabuf_client - an open file
 * @node: in vdmabuf_device.clients
 * @vd: the device
 * @session: the session that its reader knows of
 * @wait: readers and pollers
 * @read_lock: one reader at a time; guards @session
 * @events: what was not read yet; guarded by vdmabuf_device.client_lock
 */
struct vdmabuf_client {
	struct list_head node;
	struct vdmabuf_device *vd;
	u64 session;
	wait_queue_head_t wait;
	struct mutex read_lock;
	DECLARE_KFIFO(events, struct virtio_dmabuf_ioc_event, VDMABUF_CLIENT_EVENTS);
};

static dev_t vdmabuf_devt;
static DEFINE_IDA(vdmabuf_minors);

static bool vdmabuf_is_live(struct vdmabuf_device *vd)
{
	return READ_ONCE(vd->live);
}

static int vdmabuf_ioc_info(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_ioc_info arg = { };
	struct virtio_dmabuf_info_resp reply;
	struct vdmabuf_call call = {
		.session = vdmabuf_session(vd),
		.op = VIRTIO_DMABUF_GET_INFO,
		.reply = &reply,
		.reply_min = sizeof(reply),
		.reply_max = sizeof(reply),
	};
	int err = vdmabuf_call(vd, &call);

	if (err)
		return err;
	arg.version = le32_to_cpu(reply.version);
	arg.windows = le32_to_cpu(reply.windows);
	arg.window_size = le64_to_cpu(reply.window_size);
	arg.max_handles = le32_to_cpu(reply.max_handles);
	arg.max_mappings = le32_to_cpu(reply.max_mappings);
	arg.handles = le32_to_cpu(reply.handles);
	arg.mappings = le32_to_cpu(reply.mappings);
	arg.probe = le32_to_cpu(reply.probe);
	export_uuid(arg.uuid, &vd->uuid);
	memcpy(arg.name, reply.name, sizeof(arg.name));
	return copy_to_user(uarg, &arg, sizeof(arg)) ? -EFAULT : 0;
}

/**
 * vdmabuf_name_ok - whether a name has the form that the wire wants
 * @name: VIRTIO_DMABUF_NAME_LEN bytes: NUL-padded, it may fill the field
 *
 * Return: true if so; which characters it may have is for the host to say.
 */
bool vdmabuf_name_ok(const __u8 *name)
{
	size_t len = strnlen(name, VIRTIO_DMABUF_NAME_LEN);

	return len && !memchr_inv(name + len, 0, VIRTIO_DMABUF_NAME_LEN - len);
}

static int vdmabuf_ioc_open(struct vdmabuf_device *vd, void __user *uarg)
{
	struct virtio_dmabuf_ioc_open arg;
	struct dma_buf *dmabuf;
	int err, fd;

	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;
	/* O_WRONLY is for the host to refuse: which error depends on the grant. */
	if ((arg.flags & ~(O_ACCMODE | O_CLOEXEC)) ||
	    (arg.flags & O_ACCMODE) == O_ACCMODE ||
	    arg.enforcement > VIRTIO_DMABUF_ENFORCE_SEALED || arg.reserved ||
	    !vdmabuf_name_ok(arg.name))
		return -EINVAL;

	fd = get_unused_fd_flags(arg.flags & O_CLOEXEC);
	if (fd < 0)
		return fd;
	err = vdmabuf_buffer_open(vd, &arg, &dmabuf);
	if (err)
		goto put_fd;
	arg.fd = fd;
	if (copy_to_user(uarg, &arg, sizeof(arg))) {
		err = -EFAULT;
		goto put_dmabuf;
	}
	fd_install(fd, dmabuf->file);
	return 0;

put_dmabuf:
	dma_buf_put(dmabuf);
put_fd:
	put_unused_fd(fd);
	return err;
}

static long vdmabuf_stream_ioctl(struct vdmabuf_device *vd, unsigned int cmd, void __user *uarg)
{
	if (!vd->has_stream)
		return -EOPNOTSUPP;
	switch (cmd) {
	case VIRTIO_DMABUF_IOC_STREAM_LIST:
		return vdmabuf_ioc_stream_list(vd, uarg);
	case VIRTIO_DMABUF_IOC_STREAM_STATS:
		return vdmabuf_ioc_stream_stats(vd, uarg);
	case VIRTIO_DMABUF_IOC_STREAM_OPEN:
		return vdmabuf_ioc_stream_open(vd, uarg);
	default:
		return vdmabuf_ioc_stream_create(vd, uarg);
	}
}

static long vdmabuf_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vdmabuf_client *client = file->private_data;
	void __user *uarg = (void __user *)arg;

	switch (cmd) {
	case VIRTIO_DMABUF_IOC_INFO:
		return vdmabuf_ioc_info(client->vd, uarg);
	case VIRTIO_DMABUF_IOC_LIST:
		return vdmabuf_ioc_list(client->vd, uarg);
	case VIRTIO_DMABUF_IOC_OPEN:
		return vdmabuf_ioc_open(client->vd, uarg);
	case VIRTIO_DMABUF_IOC_PUBLISH:
		return vdmabuf_ioc_publish(client->vd, uarg);
	case VIRTIO_DMABUF_IOC_WITHDRAW:
		return vdmabuf_ioc_withdraw(client->vd, uarg);
	case VIRTIO_DMABUF_IOC_REVOKE:
		return vdmabuf_ioc_revoke(client->vd, uarg);
	case VIRTIO_DMABUF_IOC_STREAM_LIST:
	case VIRTIO_DMABUF_IOC_STREAM_STATS:
	case VIRTIO_DMABUF_IOC_STREAM_OPEN:
	case VIRTIO_DMABUF_IOC_STREAM_CREATE:
		return vdmabuf_stream_ioctl(client->vd, cmd, uarg);
	default:
		return vdmabuf_fence_ioctl(client->vd, cmd, uarg, file->f_flags & O_NONBLOCK);
	}
}

/* Whether the device has begun a new session, which the reader doesn't know of. */
static bool vdmabuf_is_stale(const struct vdmabuf_client *client)
{
	return vdmabuf_is_live(client->vd) &&
	       READ_ONCE(client->session) != vdmabuf_session(client->vd);
}

/* The caller holds read_lock. Returns the bytes read: none, or those of one event. */
static ssize_t vdmabuf_read_event(struct vdmabuf_client *client, char __user *ubuf)
{
	spinlock_t *lock = &client->vd->client_lock;
	struct virtio_dmabuf_ioc_event event, oldest;
	bool any;

	spin_lock_irq(lock);
	any = kfifo_peek(&client->events, &event);
	spin_unlock_irq(lock);
	if (!any)
		return 0;
	if (copy_to_user(ubuf, &event, sizeof(event)))
		return -EFAULT;
	spin_lock_irq(lock);
	/* It may have gone for a newer one meanwhile. */
	if (kfifo_peek(&client->events, &oldest) && oldest.sequence == event.sequence)
		kfifo_skip(&client->events);
	spin_unlock_irq(lock);
	return sizeof(event);
}

/*
 * The caller holds read_lock. After a suspend or a reset the reader is told once that
 * it has to list, and to open, anew; events from before would only mislead it.
 */
static ssize_t vdmabuf_read_events(struct vdmabuf_client *client, char __user *ubuf, size_t size)
{
	ssize_t got, copied = 0;

	/* A host that sends events as fast as they are read must not keep the reader here. */
	size = min(size, VDMABUF_CLIENT_EVENTS * sizeof(struct virtio_dmabuf_ioc_event));
	if (vdmabuf_is_stale(client)) {
		WRITE_ONCE(client->session, vdmabuf_session(client->vd));
		spin_lock_irq(&client->vd->client_lock);
		kfifo_reset_out(&client->events);
		spin_unlock_irq(&client->vd->client_lock);
		return -ESTALE;
	}
	do {
		got = vdmabuf_read_event(client, ubuf + copied);
		if (got <= 0)
			return copied ?: got;
		copied += got;
	} while (size - copied >= sizeof(struct virtio_dmabuf_ioc_event));
	return copied;
}

static ssize_t vdmabuf_read(struct file *file, char __user *ubuf, size_t size, loff_t *pos)
{
	struct vdmabuf_client *client = file->private_data;
	ssize_t got;
	int err;

	if (size < sizeof(struct virtio_dmabuf_ioc_event))
		return -EINVAL;
	for (;;) {
		if (mutex_lock_interruptible(&client->read_lock))
			return -ERESTARTSYS;
		got = vdmabuf_read_events(client, ubuf, size);
		mutex_unlock(&client->read_lock);
		if (got)
			return got;
		if (!vdmabuf_is_live(client->vd))
			return -EIO;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		err = wait_event_interruptible(client->wait,
					       !kfifo_is_empty(&client->events) ||
					       !vdmabuf_is_live(client->vd) ||
					       vdmabuf_is_stale(client));
		if (err)
			return err;
	}
}

static __poll_t vdmabuf_poll(struct file *file, poll_table *table)
{
	struct vdmabuf_client *client = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &client->wait, table);
	if (!kfifo_is_empty(&client->events) || vdmabuf_is_stale(client))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (!vdmabuf_is_live(client->vd))
		mask |= EPOLLERR | EPOLLHUP;
	return mask;
}

static int vdmabuf_open(struct inode *inode, struct file *file)
{
	struct vdmabuf_device *vd = container_of(inode->i_cdev, struct vdmabuf_device, cdev);
	struct vdmabuf_client *client = kvzalloc(sizeof(*client), GFP_KERNEL);

	if (!client)
		return -ENOMEM;
	client->vd = vd;
	client->session = vdmabuf_session(vd);
	init_waitqueue_head(&client->wait);
	mutex_init(&client->read_lock);
	INIT_KFIFO(client->events);
	spin_lock_irq(&vd->client_lock);
	list_add_tail(&client->node, &vd->clients);
	spin_unlock_irq(&vd->client_lock);
	file->private_data = client;
	return stream_open(inode, file);
}

static int vdmabuf_close_file(struct inode *inode, struct file *file)
{
	struct vdmabuf_client *client = file->private_data;

	spin_lock_irq(&client->vd->client_lock);
	list_del(&client->node);
	spin_unlock_irq(&client->vd->client_lock);
	kvfree(client);
	return 0;
}

static const struct file_operations vdmabuf_fops = {
	.owner = THIS_MODULE,
	.open = vdmabuf_open,
	.release = vdmabuf_close_file,
	.read = vdmabuf_read,
	.poll = vdmabuf_poll,
	.unlocked_ioctl = vdmabuf_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/**
 * vdmabuf_chardev_event - queues an event for every open file
 * @vd: the device
 * @event: the event
 *
 * A file whose reader is too slow loses its oldest: the gap in the sequence shows that.
 *
 * Context: any.
 */
void vdmabuf_chardev_event(struct vdmabuf_device *vd,
			   const struct virtio_dmabuf_ioc_event *event)
{
	struct vdmabuf_client *client;
	unsigned long flags;

	spin_lock_irqsave(&vd->client_lock, flags);
	list_for_each_entry(client, &vd->clients, node) {
		if (kfifo_is_full(&client->events))
			kfifo_skip(&client->events);
		kfifo_put(&client->events, *event);
		wake_up_interruptible(&client->wait);
	}
	spin_unlock_irqrestore(&vd->client_lock, flags);
}

/**
 * vdmabuf_chardev_wake - lets readers and pollers see that the session ended
 * @vd: the device
 */
void vdmabuf_chardev_wake(struct vdmabuf_device *vd)
{
	struct vdmabuf_client *client;

	spin_lock_irq(&vd->client_lock);
	list_for_each_entry(client, &vd->clients, node)
		wake_up_all(&client->wait);
	spin_unlock_irq(&vd->client_lock);
}

static char *vdmabuf_devnode(const struct device *dev, umode_t *mode)
{
	if (mode)
		*mode = 0600;
	return NULL;
}

static const struct class vdmabuf_class = {
	.name = "virtio_dmabuf",
	.devnode = vdmabuf_devnode,
};

static void vdmabuf_device_free(struct device *dev)
{
	struct vdmabuf_device *vd = container_of(dev, struct vdmabuf_device, dev);

	ida_free(&vdmabuf_minors, MINOR(dev->devt) - MINOR(vdmabuf_devt));
	kfree(vd->event_bufs);
	kfree(vd);
}

/**
 * vdmabuf_device_alloc - a new device with its number
 * @vdev: the virtio device
 *
 * Return: the device, to be given back by put_device(); or an error pointer.
 */
struct vdmabuf_device *vdmabuf_device_alloc(struct virtio_device *vdev)
{
	struct vdmabuf_device *vd;
	int minor, err;

	vd = kzalloc(sizeof(*vd), GFP_KERNEL);
	if (!vd)
		return ERR_PTR(-ENOMEM);
	vd->event_bufs = kcalloc(VDMABUF_EVENTS, sizeof(*vd->event_bufs), GFP_KERNEL);
	if (!vd->event_bufs) {
		err = -ENOMEM;
		goto free;
	}
	minor = ida_alloc_max(&vdmabuf_minors, VDMABUF_MINORS - 1, GFP_KERNEL);
	if (minor < 0) {
		err = minor;
		goto free;
	}
	vd->vdev = vdev;
	spin_lock_init(&vd->client_lock);
	INIT_LIST_HEAD(&vd->clients);
	cdev_init(&vd->cdev, &vdmabuf_fops);
	vd->cdev.owner = THIS_MODULE;
	device_initialize(&vd->dev);
	vd->dev.class = &vdmabuf_class;
	vd->dev.parent = &vdev->dev;
	vd->dev.release = vdmabuf_device_free;
	vd->dev.devt = vdmabuf_devt + minor;
	err = dev_set_name(&vd->dev, "virtio-dmabuf%d", minor);
	if (err) {
		put_device(&vd->dev);
		return ERR_PTR(err);
	}
	return vd;

free:
	kfree(vd->event_bufs);
	kfree(vd);
	return ERR_PTR(err);
}

/**
 * vdmabuf_chardev_add - makes /dev/virtio-dmabufN appear
 * @vd: the device
 *
 * Return: 0 or an error.
 */
int vdmabuf_chardev_add(struct vdmabuf_device *vd)
{
	return cdev_device_add(&vd->cdev, &vd->dev);
}

/**
 * vdmabuf_chardev_remove - makes /dev/virtio-dmabufN disappear
 * @vd: the device; files that are open stay open
 */
void vdmabuf_chardev_remove(struct vdmabuf_device *vd)
{
	cdev_device_del(&vd->cdev, &vd->dev);
}

/**
 * vdmabuf_chardev_init - reserves the device numbers
 *
 * Return: 0 or an error.
 */
int vdmabuf_chardev_init(void)
{
	int err = alloc_chrdev_region(&vdmabuf_devt, 0, VDMABUF_MINORS, "virtio_dmabuf");

	if (err)
		return err;
	err = class_register(&vdmabuf_class);
	if (err)
		unregister_chrdev_region(vdmabuf_devt, VDMABUF_MINORS);
	return err;
}

/**
 * vdmabuf_chardev_exit - the opposite of vdmabuf_chardev_init()
 */
void vdmabuf_chardev_exit(void)
{
	class_unregister(&vdmabuf_class);
	unregister_chrdev_region(vdmabuf_devt, VDMABUF_MINORS);
	ida_destroy(&vdmabuf_minors);
}
