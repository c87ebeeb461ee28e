/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Stores the header of a call's event, for an event that ends while another task runs. A probe
 * includes this file after infrasight.bpf.h.
 */
#define CHARS_MEMBER(name, width, ...) char name[width];
#define SET_CHARS_FROM(name, width, b, caller)                                                     \
  __builtin_memcpy(CHARS_AT(b, name, width), (caller)->name, width);

struct caller {
  struct header header;
  HEADER_COLUMNS(NOTHING, CHARS_MEMBER)
};

/* Fills `caller` from the current task, all but the time, the duration and the return code. Returns
 * false if the task's events are not recorded. */
static inline bool store_caller(struct block *b, struct caller *caller) {
  if (task_is_filtered(b)) return false;
  read_task(&caller->header);
  caller->header.via = in_compat_call() ? VIA_COMPAT : VIA_SYSCALL;
  bpf_get_current_comm(caller->comm, sizeof(caller->comm));
  return !is_started_by_agent(b->_filters, caller->header.ppid);
}

/* Fills the header's columns of an event that begin_for_other() began. */
static inline void common_of(struct block *b, struct caller *caller) {
  set_header(b, &caller->header);
  HEADER_COLUMNS(NOTHING, SET_CHARS_FROM, b, caller)
}
