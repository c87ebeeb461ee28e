/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The dispatcher: runs in every system call of the machine and jumps to the probes' programs by the
 * call's number. A call that no probe wants costs two lookups. The agent puts the programs into the
 * arrays (kernel/dispatcher.py).
 */
#include "task.bpf.h"
#include "call.bpf.h"

#define X32_BIT 30
#define ENOSYS 38

BPF_PROG_ARRAY(first_enter, CALL_SLOTS);
BPF_PROG_ARRAY(first_exit, CALL_SLOTS);
BPF_F_TABLE("array", int, u64, x32_calls, 1, BPF_F_MMAPABLE);

/* Calls of the x32 ABI, 64-bit calls with other numbers, reach no probe. */
static inline void count_x32(void) {
  int zero = 0;
  u64 *count = x32_calls.lookup(&zero);
  if (count) __sync_fetch_and_add(count, 1);
}

int dispatch_enter(struct raw_enter *raw) {
  u32 slot = slot_of(registers_of_call(), raw->number);
  first_enter.call(raw, slot); /* returns only if the slot has no program */
  return 0;
}

int dispatch_exit(struct raw_exit *raw) {
  u64 registers = registers_of_call();
  u32 number = number_at_exit(registers);
  u32 slot = slot_of(registers, number);
  first_exit.call(raw, slot);
  if (number >> X32_BIT == 1 && raw->ret != -ENOSYS && !in_compat_call()) count_x32();
  return 0;
}
