/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Between fence.c, which has the commands, and storm.c, which has those that do many things at a time. Functions
 * return 0 or more, or -errno.
 */
#ifndef FENCE_H
#define FENCE_H

#include "guest-check.h"

#define FENCES	2048

/* sync_files by their numbers. Those are not used again: 0 stands for a fence that was dropped. */
extern int fence_files[FENCES];
extern int fence_count;

uint64_t now_us(void);
int fence_keep(int fd);
int fence_make(int dev, const struct buffer *buf, uint32_t usage, uint32_t ms);
int fence_cancel(int dev, int file);
/* 0: pending, 1: signalled, or -errno. */
int fence_status(int file);
int fence_hold(int dev, const struct buffer *buf, uint32_t usage, uint32_t *ms);
int fence_release(int dev, const struct buffer *buf, uint64_t value);
int becomes_ready(int fd, short events, int ms);

/* The commands of these names: see fence.c. */
int storm_begin(int dev, struct buffer **open, size_t buffers, int count, int ms);
int storm_full(int dev, const struct buffer *buf, say_fn *say);
int storm_end(int ms, say_fn *say);
int race(int dev, const struct buffer *buf, int rounds, say_fn *say);
int block(const struct buffer *buf);
bool blocked(void);
int unblock(int ms);
int info_us(int dev, int count, say_fn *say);
int fences_invalid(int dev, const struct buffer *buf, say_fn *say);

#endif
