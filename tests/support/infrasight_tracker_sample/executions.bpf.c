/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The program that each process executes: a minimal tracker.
 */
#define COLUMNS(FIXED, CHARS, TEXT) TEXT(filename, 256, 64)

struct entry {
  u64 time;
};

#include "infrasight.bpf.h"

struct execution { /* as in the format file of sched:sched_process_exec */
  u64 common;
  u32 filename, pid;
};

int executed(struct execution *execution) {
  struct block *b = begin();
  if (b) {
    SET(b, pid, execution->pid);
    SET_KERNEL_STRING(b, filename, DATA_LOC(execution, filename));
    commit(b);
  }
  return 0;
}
