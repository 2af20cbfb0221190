// SPDX-License-Identifier: GPL-2.0-only
/*
 * A hostile guest kernel: writes to the window of a PCI device behind the
 * driver's back, each time it is loaded, in one way; or reads it ("peek"):
 *
 *	ioremap, ioremap_wc	uncached and write-combining mappings
 *	memremap		a cached mapping
 *	direct			the kernel's own mapping of the window's pages
 *	dma			a page of the window as the target of a read of
 *				the file "from", by a paravirtual device
 *
 *	peek			32-bit loads; counts what is "want", zero, all
 *				ones, and anything else
 *
 * Every page from "first" on is written to, or read. The log says "attack_window: METHOD:
 * OUTCOME"; loading always fails, so that nothing has to be unloaded.
 */
#include <linux/bvec.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/uio.h>

static char *method = "ioremap";
module_param(method, charp, 0);
static char *from = "/share/evil";
module_param(from, charp, 0);
static uint device = 0x1110;
module_param(device, uint, 0);
static uint bar = 2;
module_param(bar, uint, 0);
static ulong first;
module_param(first, ulong, 0);
static ulong pages = 64;
module_param(pages, ulong, 0);
static uint want;
module_param(want, uint, 0);

#define EVIL	0xa5a5a5a5a5a5a5a5ULL

/* The number of pages in which the write could be read back. */
static int write_pages(u8 __iomem *map, u64 len)
{
	int landed = 0;

	for (u64 at = 0; at < len; at += PAGE_SIZE) {
		writeq(EVIL, map + at + 2048);
		landed += readq(map + at + 2048) == EVIL;
	}
	return landed;
}

static int by_ioremap(phys_addr_t start, u64 len, bool combining)
{
	u8 __iomem *map = combining ? ioremap_wc(start, len) : ioremap(start, len);
	int landed;

	if (!map)
		return -ENOMEM;
	landed = write_pages(map, len);
	iounmap(map);
	return landed;
}

static int by_memremap(phys_addr_t start, u64 len)
{
	void *map = memremap(start, len, MEMREMAP_WB);
	int landed;

	if (!map)
		return -ENOMEM;
	landed = write_pages((u8 __iomem *)map, len);
	memunmap(map);
	return landed;
}

/* Those pages of the window that the driver gave struct pages. */
static int by_direct(phys_addr_t start, u64 len)
{
	int landed = -ENXIO;

	for (u64 at = 0; at < len; at += PAGE_SIZE) {
		unsigned long pfn = PHYS_PFN(start + at);

		if (!pfn_valid(pfn))
			continue;
		landed = max(landed, 0);
		landed += write_pages((u8 __iomem *)page_address(pfn_to_page(pfn)), PAGE_SIZE);
	}
	return landed;
}

static int by_dma(phys_addr_t start, u64 len)
{
	struct file *file = filp_open(from, O_RDONLY | O_DIRECT, 0);
	int landed = -ENXIO;

	if (IS_ERR(file))
		return PTR_ERR(file);
	for (u64 at = 0; at < len; at += PAGE_SIZE) {
		unsigned long pfn = PHYS_PFN(start + at);
		struct bio_vec vec;
		struct iov_iter iter;
		loff_t pos = 0;
		ssize_t got;

		if (!pfn_valid(pfn))
			continue;
		landed = max(landed, 0);
		bvec_set_page(&vec, pfn_to_page(pfn), PAGE_SIZE, 0);
		iov_iter_bvec(&iter, ITER_DEST, &vec, 1, PAGE_SIZE);
		got = vfs_iter_read(file, &iter, &pos, 0);
		if (got != PAGE_SIZE) {
			landed = got < 0 ? got : -EIO;
			break;
		}
		landed += *(u64 *)(page_address(pfn_to_page(pfn)) + 2048) == EVIL;
	}
	filp_close(file, NULL);
	return landed;
}

static int peek(phys_addr_t start, u64 len)
{
	unsigned int wanted = 0, zeroes = 0, ones = 0, others = 0;
	/* Cached, as the driver has it: the kernel refuses another kind of mapping. */
	void *map = memremap(start, len, MEMREMAP_WB);
	u64 found = len;

	if (!map)
		return -ENOMEM;
	for (u64 at = 0; at < len; at += PAGE_SIZE) {
		u32 value = READ_ONCE(*(u32 *)(map + at));

		if (value == want) {
			found = min(found, at);
			wanted++;
		} else if (!value) {
			zeroes++;
		} else if (value == U32_MAX) {
			ones++;
		} else {
			others++;
		}
	}
	memunmap(map);
	pr_info("attack_window: peeked: %llu %u %u %u %u\n", found, wanted, zeroes, ones, others);
	return 0;
}

static int __init attack_window_init(void)
{
	struct pci_dev *dev = pci_get_device(0x1af4, device, NULL);
	phys_addr_t start;
	int landed = -EINVAL;
	u64 len;

	if (!dev)
		return -ENODEV;
	start = pci_resource_start(dev, bar) + first;
	len = min_t(u64, pci_resource_len(dev, bar) - first, pages * PAGE_SIZE);
	pci_dev_put(dev);
	if (!strcmp(method, "ioremap"))
		landed = by_ioremap(start, len, false);
	else if (!strcmp(method, "ioremap_wc"))
		landed = by_ioremap(start, len, true);
	else if (!strcmp(method, "memremap"))
		landed = by_memremap(start, len);
	else if (!strcmp(method, "direct"))
		landed = by_direct(start, len);
	else if (!strcmp(method, "dma"))
		landed = by_dma(start, len);
	else if (!strcmp(method, "peek"))
		landed = peek(start, len);
	if (landed < 0)
		pr_info("attack_window: %s: refused %pe\n", method, ERR_PTR(landed));
	else
		pr_info("attack_window: %s: %d of %llu pages\n", method, landed, len / PAGE_SIZE);
	return -ECANCELED;
}
module_init(attack_window_init);

MODULE_DESCRIPTION("Attempts to write to a read-only window");
MODULE_LICENSE("GPL");
