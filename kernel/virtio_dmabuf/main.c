// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtio dmabuf guest driver: life of a device.
 *
 * The driver makes dma-bufs of the guest out of buffers that the host shares
 * with it: see protocol/SPEC.md for what it speaks with the device, and
 * uapi/virtio_dmabuf.h for what it offers to programs.
 */
#include <linux/ioport.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/virtio_config.h>

#include "stream.h"

/* What a VMM with a closed list of device types may call it */
#define VDMABUF_ID_MEDIA	48
#define VDMABUF_ID_WL		63

struct workqueue_struct *vdmabuf_wq;

/* Byte by byte: nothing is known of the device's byte order yet. */
static void vdmabuf_read_config(struct virtio_device *vdev,
				struct virtio_dmabuf_config *config)
{
	virtio_cread_bytes(vdev, 0, config, sizeof(*config));
}

/*
 * Recognises the device before features are negotiated, so that a foreign one is
 * left as it was. (The core sets FAILED when a driver declines; the next driver
 * for the device starts from there all the same.)
 */
static int vdmabuf_validate(struct virtio_device *vdev)
{
	struct virtio_dmabuf_config config;

	if (!vdev->config->get)
		return -ENODEV;
	/* First the magic alone: a foreign config space can be smaller than ours. */
	virtio_cread_bytes(vdev, offsetof(struct virtio_dmabuf_config, magic),
			   config.magic, sizeof(config.magic));
	if (memcmp(config.magic, VIRTIO_DMABUF_CONFIG_MAGIC, sizeof(config.magic)))
		return -ENODEV;
	vdmabuf_read_config(vdev, &config);
	if (le32_to_cpu(config.version) != VIRTIO_DMABUF_VERSION) {
		dev_err(&vdev->dev, "device has version %u, this driver knows %u\n",
			le32_to_cpu(config.version), VIRTIO_DMABUF_VERSION);
		return -ENODEV;
	}
	if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "legacy device: VIRTIO_F_VERSION_1 is needed\n");
		return -ENODEV;
	}
	return 0;
}

/* After a configuration change: does the device still work? */
static void vdmabuf_config_work(struct work_struct *work)
{
	struct vdmabuf_device *vd = container_of(work, struct vdmabuf_device, config_work);
	u8 status = vd->vdev->config->get_status(vd->vdev);

	if (!(status & VIRTIO_CONFIG_S_NEEDS_RESET) || !READ_ONCE(vd->live))
		return;
	dev_err(&vd->dev, "device needs a reset: when the host's daemon runs again, unbind and bind the driver\n");
	vdmabuf_queues_fail(vd);
	vdmabuf_streams_wake(vd);
	vdmabuf_chardev_wake(vd);
}

static void vdmabuf_config_changed(struct virtio_device *vdev)
{
	struct vdmabuf_device *vd = vdev->priv;

	queue_work(vdmabuf_wq, &vd->config_work);
}

/* The dynamic window. The device is of use without it. */
static void vdmabuf_add_window(struct vdmabuf_device *vd)
{
	struct virtio_shm_region region;
	struct vdmabuf_window *win;

	if (!virtio_get_shm_region(vd->vdev, &region, VIRTIO_DMABUF_SHM_WINDOW))
		return;
	if (!region.len || !PAGE_ALIGNED(region.addr | region.len) ||
	    region.addr + region.len < region.addr) {
		dev_warn(&vd->dev, "dynamic window of %#llx bytes at %#llx left unused\n",
			 region.len, region.addr);
		return;
	}
	vd->claimed = request_mem_region(region.addr, region.len, dev_name(&vd->dev));
	if (!vd->claimed) {
		dev_warn(&vd->dev, "dynamic window at %#llx is in use by another driver\n",
			 region.addr);
		return;
	}
	win = vdmabuf_window_add(region.addr, region.len, &uuid_null);
	if (IS_ERR(win)) {
		dev_warn(&vd->dev, "no dynamic window: %pe\n", win);
		return;
	}
	vd->window = win;
}

static void vdmabuf_remove_window(struct vdmabuf_device *vd)
{
	struct vdmabuf_window *win;

	mutex_lock(&vdmabuf_lock);
	win = vd->window;
	vd->window = NULL;
	mutex_unlock(&vdmabuf_lock);
	if (win)
		vdmabuf_window_remove(win);
	if (vd->claimed)
		release_mem_region(vd->claimed->start, resource_size(vd->claimed));
}

static int vdmabuf_probe(struct virtio_device *vdev)
{
	struct virtio_dmabuf_config config;
	struct vdmabuf_device *vd;
	int err;

	vd = vdmabuf_device_alloc(vdev);
	if (IS_ERR(vd))
		return PTR_ERR(vd);
	vdev->priv = vd;
	vdmabuf_queues_init(vd);
	vdmabuf_control_init(vd);
	vdmabuf_fence_init(vd);
	vdmabuf_streams_init(vd);
	vdmabuf_revoke_init(vd);
	INIT_WORK(&vd->config_work, vdmabuf_config_work);
	vdmabuf_read_config(vdev, &config);
	import_uuid(&vd->uuid, config.uuid);
	vd->max_inflight = max(1U, le32_to_cpu(config.max_inflight));
	vd->has_fence = virtio_has_feature(vdev, VIRTIO_DMABUF_F_FENCE);
	vd->has_stream = virtio_has_feature(vdev, VIRTIO_DMABUF_F_STREAM);
	vd->has_static = virtio_has_feature(vdev, VIRTIO_DMABUF_F_STATIC_WINDOW);

	vdmabuf_add_window(vd);
	err = vdmabuf_session_start(vd);
	if (err)
		goto remove_window;
	err = vdmabuf_chardev_add(vd);
	if (err)
		goto stop;
	vdmabuf_heaps_add(vd);
	return 0;

stop:
	vdmabuf_session_stop(vd);
	cancel_work_sync(&vd->config_work);
remove_window:
	vdmabuf_remove_window(vd);
	put_device(&vd->dev);
	return err;
}

static void vdmabuf_remove(struct virtio_device *vdev)
{
	struct vdmabuf_device *vd = vdev->priv;

	vdmabuf_chardev_remove(vd);
	vdmabuf_session_stop(vd);
	vdmabuf_heaps_remove(vd);
	cancel_work_sync(&vd->config_work);
	vdmabuf_remove_window(vd);
	put_device(&vd->dev);
}

/* Suspend, or a reset of the transport: the session ends. */
static int vdmabuf_freeze(struct virtio_device *vdev)
{
	struct vdmabuf_device *vd = vdev->priv;

	vdmabuf_session_stop(vd);
	cancel_work_sync(&vd->config_work);
	return 0;
}

/* ... and a new one begins, with no handles. */
static int vdmabuf_restore(struct virtio_device *vdev)
{
	struct vdmabuf_device *vd = vdev->priv;
	int err = vdmabuf_session_start(vd);

	/* Readers have to know. */
	vdmabuf_chardev_wake(vd);
	return err;
}

#ifdef VDMABUF_HAS_RESET_PREPARE
/* Power off, reboot, kexec */
static void vdmabuf_shutdown(struct virtio_device *vdev)
{
	vdmabuf_freeze(vdev);
}
#endif

static const struct virtio_device_id vdmabuf_ids[] = {
	{ VIRTIO_DMABUF_ID, VIRTIO_DEV_ANY_ID },
	{ VDMABUF_ID_MEDIA, VIRTIO_DEV_ANY_ID },
	{ VDMABUF_ID_WL, VIRTIO_DEV_ANY_ID },
	{ }
};
MODULE_DEVICE_TABLE(virtio, vdmabuf_ids);

static const unsigned int vdmabuf_features[] = {
	VIRTIO_DMABUF_F_ALLOC,
	VIRTIO_DMABUF_F_FENCE,
	VIRTIO_DMABUF_F_STREAM,
	VIRTIO_DMABUF_F_STATIC_WINDOW,
};

static struct virtio_driver vdmabuf_driver = {
	.driver.name = "virtio_dmabuf",
	.id_table = vdmabuf_ids,
	.feature_table = vdmabuf_features,
	.feature_table_size = ARRAY_SIZE(vdmabuf_features),
	.validate = vdmabuf_validate,
	.probe = vdmabuf_probe,
	.remove = vdmabuf_remove,
	.config_changed = vdmabuf_config_changed,
	.freeze = vdmabuf_freeze,
	.restore = vdmabuf_restore,
#ifdef VDMABUF_HAS_RESET_PREPARE
	.shutdown = vdmabuf_shutdown,
	.reset_prepare = vdmabuf_freeze,
	.reset_done = vdmabuf_restore,
#endif
};

static int __init vdmabuf_init(void)
{
	int err;

	vdmabuf_wq = alloc_workqueue("virtio_dmabuf", WQ_UNBOUND, 0);
	if (!vdmabuf_wq)
		return -ENOMEM;
	err = vdmabuf_chardev_init();
	if (err)
		goto destroy_wq;
	err = vdmabuf_window_init();
	if (err)
		goto exit_chardev;
	err = register_virtio_driver(&vdmabuf_driver);
	if (err)
		goto exit_window;
	return 0;

exit_window:
	vdmabuf_window_exit();
exit_chardev:
	vdmabuf_chardev_exit();
destroy_wq:
	destroy_workqueue(vdmabuf_wq);
	return err;
}
module_init(vdmabuf_init);

static void __exit vdmabuf_exit(void)
{
	unregister_virtio_driver(&vdmabuf_driver);
	vdmabuf_window_exit();
	/* The last fence can be on its way out of its release() still. */
	synchronize_rcu();
	/* Waits for what is being given back to the host, and frees what is left. */
	destroy_workqueue(vdmabuf_wq);
	vdmabuf_chardev_exit();
}
module_exit(vdmabuf_exit);

MODULE_DESCRIPTION("virtio dmabuf: the host's dma-bufs in a guest");
MODULE_LICENSE("GPL");
MODULE_SOFTDEP("pre: virtio_dmabuf_heaps");
/* MODULE_IMPORT_NS() takes a word up to Linux 6.12 and a string since. */
MODULE_INFO(import_ns, "DMA_BUF");
