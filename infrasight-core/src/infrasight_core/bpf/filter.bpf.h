/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Filters: which events are recorded. Included by infrasight.bpf.h; begin() and commit() ask it, a probe has nothing to do but
 * to name its path column, if it has one, before it includes that: `#define FILTER_PATH path`. The agent fills the maps and
 * changes them while programs run (kernel/filters.py): the values lie in two banks, of which the state names the one that
 * holds, so that a change comes into force as one store of eight bytes.
 *
 * An event is recorded if it fits every kind of `include` that is set, and no `exclude`. A path that is missing, cut or
 * empty (of a call that failed) is not known to lie elsewhere, so the event is recorded.
 */
enum filter_kind { FILTER_PID, FILTER_UID, FILTER_COMM, FILTER_CGROUP, FILTER_PATHS };

#define FILTER_EXCLUDE 1ULL /* in a value, what it is for; in the state, two bits for each kind: what is set */
#define FILTER_INCLUDE 2ULL
#define FILTER_SET(state, kind) ((state) >> 2 * (kind) & (FILTER_EXCLUDE | FILTER_INCLUDE))
#define FILTER_BANK(state) ((state) >> 16 & 1)
#define FILTER_OURS(state, process) ((state) >> 32 == (process)) /* the agent's process; none: no process has this number */
#define FILTER_ANY 0x3ffULL
#define FILTER_DROP (1ULL << 17) /* in the block's copy of the state: this event is not wanted */
#define FILTER_PATH_BYTES 255    /* the longest prefix */

struct filter_key {
  u64 bank_kind, value[2];
};

struct filter_prefix {
  u32 bits;
  u8 bank, path[FILTER_PATH_BYTES];
};

BPF_ARRAY(filter_state, u64, 1);
BPF_F_TABLE("hash", struct filter_key, u64, filter_values, FILTER_VALUES, BPF_F_NO_PREALLOC);
BPF_LPM_TRIE(filter_prefixes, struct filter_prefix, u64, FILTER_PREFIXES);

/* Whether what was found among the values of a kind, or NULL, keeps the event from being recorded. */
static inline bool unwanted(u64 set, u64 *found) {
  u64 fits = found ? *found : 0;
  return (fits & FILTER_EXCLUDE) || ((set & FILTER_INCLUDE) && !(fits & FILTER_INCLUDE));
}

static inline bool value_is_filtered(u64 state, enum filter_kind kind, u64 first, u64 second) {
  struct filter_key key = {FILTER_BANK(state) << 8 | kind, {first, second}};
  return unwanted(FILTER_SET(state, kind), filter_values.lookup(&key));
}

/* Whether the current task's events are not wanted; keeps the state for the rest of the event, which is so judged by one. */
static inline bool task_is_filtered(struct block *b) {
  int zero = 0;
  u64 *found = filter_state.lookup(&zero), state = found ? *found & ~FILTER_DROP : 0, ids = bpf_get_current_pid_tgid();
  b->_filters = state;
  if (FILTER_OURS(state, ids >> 32)) return true;
  if (!(state & FILTER_ANY)) return false;
  if (FILTER_SET(state, FILTER_PID) && value_is_filtered(state, FILTER_PID, ids >> 32, 0)) return true;
  if (FILTER_SET(state, FILTER_UID) && value_is_filtered(state, FILTER_UID, (u32)bpf_get_current_uid_gid(), 0)) return true;
  if (FILTER_SET(state, FILTER_CGROUP) && value_is_filtered(state, FILTER_CGROUP, cgroup_of(CURRENT_TASK), 0)) return true;
  if (FILTER_SET(state, FILTER_COMM)) {
    u64 comm[2];
    bpf_get_current_comm(comm, sizeof(comm));
    return value_is_filtered(state, FILTER_COMM, comm[0], comm[1]);
  }
  return false;
}

/* The agent's children, which load its probes, are its own work too. */
#define FILTER_PARENT(b, parent)                                                                                               \
  if (FILTER_OURS((b)->_filters, parent)) (b)->_filters |= FILTER_DROP;

#ifdef FILTER_PATH
#define FILTER_TEXT_(macro, name) macro(name)
#define FILTER_LENGTH_(name) (b->_length[TEXT_##name])
#define FILTER_UNKNOWN_(name) (TEXT_CUT(name) | TEXT_MISSING(name))
#define FILTER_TEXT_AT_(name) (&b->name##__heap[b->_heap_head[TEXT_##name] & (name##_heap_size - 1)])

static inline bool path_is_filtered(struct block *b) {
  u64 state = b->_filters, length = FILTER_TEXT_(FILTER_LENGTH_, FILTER_PATH);
  if (!length || !FILTER_SET(state, FILTER_PATHS) || (b->_quality & FILTER_TEXT_(FILTER_UNKNOWN_, FILTER_PATH))) return false;
  struct filter_prefix *prefix = (void *)b->_prefix;
  prefix->bits = 8 + 8 * (length < FILTER_PATH_BYTES ? length : FILTER_PATH_BYTES);
  prefix->bank = FILTER_BANK(state);
  bpf_probe_read_kernel(prefix->path, FILTER_PATH_BYTES, FILTER_TEXT_(FILTER_TEXT_AT_, FILTER_PATH));
  return unwanted(FILTER_SET(state, FILTER_PATHS), filter_prefixes.lookup(prefix));
}
#else
static inline bool path_is_filtered(struct block *b) {
  return false;
}
#endif

/* Whether the event that stands in the slot is not to be published. */
static inline bool event_is_filtered(struct block *b) {
  return (b->_filters & FILTER_DROP) || path_is_filtered(b);
}
