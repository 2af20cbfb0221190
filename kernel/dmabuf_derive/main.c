// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/dmabuf-derive: takes a dma-buf or an alias, gives an alias with the same
 * or less access.
 */
#include <linux/dma-buf.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "alias.h"
#include "uapi/dmabuf_derive.h"

/* What is derived from: a buffer, and the access of the fd that was given. */
struct parent {
	struct dma_buf *dmabuf;
	bool readable;
	bool writable;
};

/* Takes a reference to the buffer that an fd, dma-buf or alias, stands for. */
static int parent_get(int fd, struct parent *parent)
{
	struct file *file = fget(fd);
	struct alias *alias;
	int ret = 0;

	if (!file)
		return -EBADF;

	/* Not the file's mode: of a lenient read-only alias it is O_RDWR. */
	alias = alias_of(file);
	if (alias) {
		get_dma_buf(alias->dmabuf);
		parent->dmabuf = alias->dmabuf;
		parent->readable = true;
		parent->writable = alias->writable;
		goto out;
	}

	parent->dmabuf = dma_buf_get(fd);
	if (IS_ERR(parent->dmabuf)) {
		ret = PTR_ERR(parent->dmabuf);
		goto out;
	}
	/* Another thread may have put another file behind the fd meanwhile. */
	if (parent->dmabuf->file != file) {
		dma_buf_put(parent->dmabuf);
		ret = -EINVAL;
		goto out;
	}
	parent->readable = file->f_mode & FMODE_READ;
	parent->writable = file->f_mode & FMODE_WRITE;
out:
	fput(file);
	return ret;
}

/* The order of errors is that of OPEN and DERIVE on the wire. */
static int check_access(const struct parent *parent, u32 mode)
{
	if (mode != O_RDONLY && !parent->writable)
		return -EACCES;
	if (mode == O_WRONLY)
		return -EINVAL;
	return parent->readable ? 0 : -EACCES;
}

static long derive(struct dmabuf_derive __user *arg)
{
	struct dmabuf_derive request;
	struct parent parent;
	struct file *file;
	u32 mode;
	int fd, ret;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	mode = request.flags & O_ACCMODE;
	if (request.flags & ~(O_ACCMODE | O_CLOEXEC) || mode == O_ACCMODE)
		return -EINVAL;
	if (request.options & ~DMABUF_DERIVE_MAP_WRITABLE_AS_READONLY ||
	    (request.options && mode != O_RDONLY))
		return -EINVAL;

	ret = parent_get(request.fd, &parent);
	if (ret)
		return ret;
	ret = check_access(&parent, mode);
	if (ret)
		goto put_parent;

	fd = get_unused_fd_flags(request.flags & O_CLOEXEC);
	if (fd < 0) {
		ret = fd;
		goto put_parent;
	}
	file = alias_create(parent.dmabuf, mode == O_RDWR, request.options);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
		goto put_fd;
	}
	if (put_user(fd, &arg->alias)) {
		ret = -EFAULT;
		goto put_file;
	}
	fd_install(fd, file);
	dma_buf_put(parent.dmabuf);
	return 0;

put_file:
	fput(file);
put_fd:
	put_unused_fd(fd);
put_parent:
	dma_buf_put(parent.dmabuf);
	return ret;
}

static long derive_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	if (cmd != DMABUF_DERIVE_IOC_DERIVE)
		return -ENOTTY;
	return derive((struct dmabuf_derive __user *)arg);
}

static const struct file_operations derive_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = derive_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice derive_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmabuf-derive",
	.fops = &derive_fops,
	.mode = 0660,
};
module_misc_device(derive_device);

/* MODULE_IMPORT_NS() takes a word up to Linux 6.12 and a string since. */
MODULE_INFO(import_ns, "DMA_BUF");
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Aliases of dma-bufs with less access, that no device can import");
MODULE_VERSION("0.1.0");
