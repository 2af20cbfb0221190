// SPDX-License-Identifier: GPL-2.0-only
/*
 * host-attack FD OFFSET SIZE WITNESS-FD WITNESS-OFFSET ROUTE ATTACKER
 *
 * Each attack runs in a process of its own, that may die. The witness is the
 * producer's writable view of the same buffer: it is filled before each attack
 * and compared after it. "-" for WITNESS-FD: the attacker's own view is compared
 * with what it was.
 *
 * host-attack guest NAME ROUTE
 *
 * The same in a guest, for a buffer that it may read.
 *
 * host-attack hold NAME COMMAND
 *
 * Runs a command in a guest while the buffer is open and mapped. Output: "attack ROUTE ATTACKER NAME blocked|landed|n/a
 * VALUE"; the exit status is 2 if the witness can't be had.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../guest/guest-check.h"
#include "attack.h"

#define FILL		0x50
#define LIMIT		20	/* seconds for one attack */

uint8_t *map_ro(const struct target *t)
{
	void *map = mmap(NULL, t->size, PROT_READ, MAP_SHARED, t->fd, t->offset);

	return map == MAP_FAILED ? NULL : map;
}

static int changed(const uint8_t *witness, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (witness[i] != FILL)
			return 1;
	return 0;
}

/* The attack's result: 0 or -errno, or -4096 - SIGNAL for one that died. */
static int in_child(const struct attack *a, const struct target *t)
{
	int status, pipefd[2], result = -EIO;
	pid_t pid;

	if (pipe(pipefd))
		return -errno;
	pid = fork();
	if (!pid) {
		close(pipefd[0]);
		alarm(LIMIT);
		result = a->run(t);
		if (write(pipefd[1], &result, sizeof(result)) != sizeof(result))
			_exit(1);
		_exit(0);
	}
	close(pipefd[1]);
	if (read(pipefd[0], &result, sizeof(result)) != sizeof(result))
		result = -EIO;
	close(pipefd[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -EIO;
	return WIFSIGNALED(status) ? NOT_APPLICABLE - WTERMSIG(status) : result;
}

static void tell(const char *route, const char *attacker, const struct attack *a, int result,
		 int landed)
{
	const char *outcome = landed ? "landed" : result == NOT_APPLICABLE ? "n/a" : "blocked";
	const char *value = result == NOT_APPLICABLE ? "not to be had here" :
			    result < NOT_APPLICABLE ? strsignal(NOT_APPLICABLE - result) :
			    result < 0 ? strerrorname_np(-result) :
			    landed ? "done" : "no error, the bytes are the same";

	printf("attack %s %s %s %s %s\n", route, attacker, a->name, outcome, value);
	fflush(stdout);
}

static void run_all(const struct target *t, uint8_t *witness, const char *route,
		    const char *attacker)
{
	static const struct attack *const all[] = { map_attacks, file_attacks, device_attacks };
	uint8_t *before = NULL;

	if (!witness) {
		witness = map_ro(t);
		before = malloc(t->size);
		if (!witness || !before) {
			perror("host-attack: the attacker's view");
			exit(2);
		}
		memcpy(before, witness, t->size);
	}
	for (size_t list = 0; list < sizeof(all) / sizeof(all[0]); list++) {
		for (const struct attack *a = all[list]; a->name; a++) {
			int result, landed;

			if (!before)
				memset(witness, FILL, t->size);
			result = in_child(a, t);
			landed = before ? memcmp(before, witness, t->size) : changed(witness, t->size);
			/* What a guest does to its own file is its own affair. */
			landed |= a->by_result && !result && !before;
			tell(route, attacker, a, result, landed);
			if (before)
				memcpy(before, witness, t->size);
		}
	}
}

int main(int argc, char **argv)
{
	uint8_t *witness = NULL;
	struct buffer buf;
	struct target t;

	if (argc == 4 && (!strcmp(argv[1], "guest") || !strcmp(argv[1], "hold"))) {
		int err = buffer_open(device_open(O_RDWR), argv[2], false, &buf);

		if (err) {
			fprintf(stderr, "host-attack: %s: %s\n", argv[2], errno_name(err));
			return 2;
		}
		if (!strcmp(argv[1], "hold"))
			return system(argv[3]) ? 1 : 0;
		t = (struct target){ .fd = buf.fd, .size = buf.size };
		run_all(&t, NULL, argv[3], "guest");
		return 0;
	}
	if (argc != 8) {
		fprintf(stderr, "usage: host-attack FD OFFSET SIZE WITNESS-FD WITNESS-OFFSET ROUTE ATTACKER\n"
				"       host-attack guest NAME ROUTE\n"
				"       host-attack hold NAME COMMAND\n");
		return 2;
	}
	t.fd = atoi(argv[1]);
	t.offset = strtoull(argv[2], NULL, 0);
	t.size = strtoull(argv[3], NULL, 0);
	if (strcmp(argv[4], "-")) {
		witness = mmap(NULL, t.size, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[4]),
			       strtoull(argv[5], NULL, 0));
		if (witness == MAP_FAILED) {
			perror("host-attack: the producer's view");
			return 2;
		}
		/* The attacks shall have no other fd than the attacker's. */
		close(atoi(argv[4]));
		madvise(witness, t.size, MADV_DONTFORK);
	}
	run_all(&t, witness, argv[6], argv[7]);
	return 0;
}
