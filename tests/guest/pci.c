// SPDX-License-Identifier: GPL-2.0-only
/*
 * Root writes to the window behind the guest driver's back: through /dev/mem, and
 * through the PCI device's resource file. A guest that was booted with
 * iomem=relaxed allows both; others refuse them while the driver has claimed the
 * window, so it is unbound then.
 *
 * Every slot of a static window is attacked, so that it isn't necessary to know
 * where in it the buffer is. A write that is dropped is what it should be.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest-check.h"

#define IVSHMEM_ID	"0x1110"
#define BAR		2

static const char pattern[8] = "ATTACKED";

struct window {
	char dir[128];
	uint64_t start;
	uint64_t size;
};

static bool read_text(const char *dir, const char *file, char *text, size_t size)
{
	char path[192];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = read(fd, text, size - 1);
	close(fd);
	text[got > 0 ? got : 0] = 0;
	return got > 0;
}

static int write_text(const char *path, const char *text)
{
	int err, fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	err = write(fd, text, strlen(text)) < 0 ? errno : 0;
	close(fd);
	return err;
}

/* Start and size of a BAR: the line of its number in the file "resource". */
static bool bar_range(struct window *win)
{
	char text[2048], *line = text;
	unsigned long long start, end;

	if (!read_text(win->dir, "resource", text, sizeof(text)))
		return false;
	for (int i = 0; i < BAR && line; i++) {
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	if (!line || sscanf(line, "%llx %llx", &start, &end) != 2 || !start)
		return false;
	win->start = start;
	win->size = end - start + 1;
	return true;
}

/* Writes to every slot. 1: a write was seen, 0: none was, -errno. */
static int write_slots(uint8_t *map, uint64_t size)
{
	struct virtio_dmabuf_window header;
	uint8_t seen[sizeof(pattern)];
	uint64_t offset = 0;
	int err;

	err = guarded_copy(&header, map, sizeof(header));
	if (err)
		return err;
	if (memcmp(header.magic, VIRTIO_DMABUF_WINDOW_MAGIC, sizeof(header.magic)))
		return -ENODEV;
	for (uint32_t i = 0; i <= header.slots; i++) {
		/* First the header page, then the slots */
		offset = i ? header.first_slot + (i - 1) * header.slot_size : 2048;
		if (offset > size - sizeof(pattern))
			break;
		err = guarded_copy(map + offset, pattern, sizeof(pattern));
		if (!err)
			err = guarded_copy(seen, map + offset, sizeof(seen));
		if (err)
			return err;
		if (!memcmp(seen, pattern, sizeof(seen)))
			return 1;
	}
	return 0;
}

static int map_and_write(const char *path, uint64_t offset, uint64_t size)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t *map;
	int got;

	if (fd < 0)
		return -errno;
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	got = map == MAP_FAILED ? -errno : write_slots(map, size);
	if (map != MAP_FAILED)
		munmap(map, size);
	close(fd);
	return got;
}

static void verdict(const char *name, int got, report_fn *report, void *arg)
{
	char value[64];

	snprintf(value, sizeof(value), got < 0 ? "refused:%s" : got ? "written" : "dropped",
		 errno_name(got));
	report(name, got != 1, value, arg);
}

/* The last part of the link DIR/driver, or "" if no driver is bound. */
static void driver_of(const struct window *win, char path[192])
{
	char link[160];
	ssize_t len;

	path[0] = 0;
	snprintf(link, sizeof(link), "%s/driver", win->dir);
	len = readlink(link, path, 191);
	path[len > 0 ? len : 0] = 0;
}

/* True: the driver had to be unbound for it. */
static bool by_resource(const struct window *win, report_fn *report, void *arg)
{
	char target[192], resource[160], bind[256];
	const char *address = strrchr(win->dir, '/') + 1;
	const char *driver;
	int err;

	snprintf(resource, sizeof(resource), "%s/resource%d", win->dir, BAR);
	err = map_and_write(resource, 0, win->size);
	if (err >= 0) {
		/* Booted with iomem=relaxed: no need to disturb the driver. */
		verdict("pci_resource", err, report, arg);
		return false;
	}
	verdict("pci_resource_claimed", err, report, arg);

	driver_of(win, target);
	driver = strrchr(target, '/');
	if (driver) {
		snprintf(bind, sizeof(bind), "/sys/bus/pci/drivers%s/unbind", driver);
		err = write_text(bind, address);
		report("pci_unbind", !err, errno_name(err), arg);
	}
	/* Unbinding has disabled the device's memory. */
	snprintf(bind, sizeof(bind), "%s/enable", win->dir);
	err = write_text(bind, "1");
	report("pci_enable", !err, errno_name(err), arg);
	err = map_and_write(resource, 0, win->size);
	verdict("pci_resource", err, report, arg);
	report("pci_resource_reached", err >= 0, errno_name(err), arg);
	write_text(bind, "0");
	if (driver) {
		snprintf(bind, sizeof(bind), "/sys/bus/pci/drivers%s/bind", driver);
		err = write_text(bind, address);
		report("pci_bind", !err, errno_name(err), arg);
	}
	return true;
}

/* After the window was unbound: the old mapping is dead, a new one works. */
static void reopen(int dev, struct buffer *buf, report_fn *report, void *arg)
{
	char name[NAME_LEN + 1];
	uint8_t byte;
	int err;

	err = buffer_get(buf, 0, &byte, 1);
	report("revoked_faults", err == -EFAULT, err ? "SIGBUS" : "readable", arg);
	strcpy(name, buf->name);
	buffer_close(buf);
	err = buffer_open(dev, name, false, buf);
	report("reopen_after_bind", !err, errno_name(err), arg);
	if (!err)
		err = buffer_get(buf, 0, &byte, 1);
	report("readable_after_bind", !err, errno_name(err), arg);
}

void attack_pci(int dev, struct buffer *buf, report_fn *report, void *arg)
{
	bool unbound = false;
	struct window win;
	char device[16];
	glob_t dirs;

	if (glob("/sys/bus/pci/devices/*", 0, NULL, &dirs))
		return;
	for (size_t i = 0; i < dirs.gl_pathc; i++) {
		snprintf(win.dir, sizeof(win.dir), "%s", dirs.gl_pathv[i]);
		if (!read_text(win.dir, "device", device, sizeof(device)) ||
		    strncmp(device, IVSHMEM_ID, strlen(IVSHMEM_ID)) || !bar_range(&win))
			continue;
		verdict("dev_mem", map_and_write("/dev/mem", win.start, win.size), report, arg);
		unbound |= by_resource(&win, report, arg);
	}
	globfree(&dirs);
	if (unbound)
		reopen(dev, buf, report, arg);
}
