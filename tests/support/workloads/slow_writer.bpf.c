/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A probe for tests: a row of getppid(2) whose slot is written for some 50 µs, in which timers
 * expire. Each such timer is a row, too.
 */
#define COLUMNS(FIXED, CHARS, TEXT)                                                                \
  TEXT(nothing, 64, 1) FIXED(u64, first) FIXED(u64, last) FIXED(u8, is_timer)

struct entry {
  u64 time;
};

#include "infrasight.bpf.h"

#define ROUNDS 1500

int exit_getppid(struct sys_exit *call) {
  struct block *b = begin();
  u64 now = 0;
  if (!b) return 0;
  SET(b, first, bpf_get_current_pid_tgid());
  for (int i = 0; i < ROUNDS; i++)
    now = bpf_ktime_get_boot_ns();
  fill_header(b, now, 0, VIA_SYSCALL);
  SET(b, is_timer, false);
  SET(b, last, bpf_get_current_pid_tgid());
  commit(b);
  return 0;
}

int timer_expired(void *context) {
  struct block *b = begin();
  if (!b) return 0;
  fill_header(b, 0, 0, VIA_KERNEL);
  SET(b, first, 1);
  SET(b, last, 1);
  SET(b, is_timer, true);
  commit(b);
  return 0;
}
