/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DMABUF_DERIVE_ALIAS_H
#define DMABUF_DERIVE_ALIAS_H

#include <linux/types.h>

struct dma_buf;
struct file;

/**
 * struct alias - a dma-buf as granted to whoever holds the alias's file
 * @dmabuf: the buffer; the alias has a reference
 * @writable: the access is O_RDWR, else O_RDONLY
 * @options: DMABUF_DERIVE_*, what this alias was derived with
 */
struct alias {
	struct dma_buf *dmabuf;
	bool writable;
	u32 options;
};

/**
 * alias_create() - make an alias and its file
 * @dmabuf: the buffer; the alias takes a reference of its own
 * @writable: the access
 * @options: DMABUF_DERIVE_*
 *
 * Return: the file, or an ERR_PTR().
 */
struct file *alias_create(struct dma_buf *dmabuf, bool writable, u32 options);

/**
 * alias_of() - the alias that a file is
 * @file: any file
 *
 * Return: the alias, which lives as long as @file; NULL for other files.
 */
struct alias *alias_of(struct file *file);

#endif /* DMABUF_DERIVE_ALIAS_H */
