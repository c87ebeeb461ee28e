/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Filters: decide which events are recorded. Included by infrasight.bpf.h; begin() and commit()
 * apply them. A probe only names the TEXT column that holds its path, if it has one, before it
 * includes that header: `#define FILTER_PATH path`.
 *
 * The agent fills the maps and changes them while programs run (kernel/filters.py). The values lie
 * in two banks. The state names the active bank, so that a single store of eight bytes activates a
 * change.
 *
 * An event is recorded if it matches every include filter that is set and no exclude filter. A path
 * that is missing, truncated or empty (the call failed) might match, so the event is recorded.
 *
 * The agent's own work is not recorded: its threads, and the processes that one of its threads
 * other than the first started. The kernel hands orphans to the first thread of process 1 (or of a
 * subreaper), so that no other process's child is ever taken for the agent's.
 *
 * Nor is it recorded that the embedded store of a server on this machine works on a file in its own
 * folder, or on one of the few others that it opens for each statement: storing that row would open
 * files again, and never end. Such an open may fail, and then has no path but the given one; a
 * probe names its column before it includes the header: `#define FILTER_GIVEN_PATH path`.
 *
 * The exception is the agent's canary: a thread that causes events on purpose (agent/canary.py). No
 * filter applies to it. Its events are written to the block and counted as filtered, and the agent
 * takes them out of what it reads.
 */
enum filter_kind { FILTER_PID, FILTER_UID, FILTER_COMM, FILTER_CGROUP, FILTER_PATHS };

/* In a value: which filters it belongs to. In the state: two bits for each kind, which filters of
 * that kind are set. */
#define FILTER_EXCLUDE 1ULL
#define FILTER_INCLUDE 2ULL
#define FILTER_SET(state, kind) ((state) >> (2 * (kind)) & (FILTER_EXCLUDE | FILTER_INCLUDE))
#define FILTER_ANY 0x3ffULL
#define FILTER_BANK(state) ((state) >> 16 & 1)
/* Only in the block's copy of the state: drop this event; this is an event of the canary. */
#define FILTER_DROP (1ULL << 17)
#define FILTER_CANARY (1ULL << 18)
#define FILTER_STORE (1ULL << 19) /* the process is the embedded store */
/* Whether a process is the agent. No process has the number that stands for "no agent". */
#define FILTER_IS_AGENT(state, process) ((state) >> 32 == (process))
#define FILTER_NO_AGENT (0xffffffffULL << 32)
#define FILTER_PATH_BYTES 255 /* the longest prefix */
#define STORE_BANK 2          /* in filter_prefixes: the store's folder */
#define STORE_INDEX 1         /* in filter_state: the store's process, 0 for none */

struct filter_key {
  u64 bank_kind, value[2];
};

struct filter_prefix {
  u32 bits;
  u8 bank, path[FILTER_PATH_BYTES];
};

BPF_ARRAY(filter_state, u64, 2);
BPF_F_TABLE("hash", struct filter_key, u64, filter_values, FILTER_VALUES, BPF_F_NO_PREALLOC);
BPF_LPM_TRIE(filter_prefixes, struct filter_prefix, u64, FILTER_PREFIXES);

/* Whether filters of a kind reject an event. `match` is what the lookup of the event's value
 * returned, NULL if no filter names that value. */
static inline bool is_rejected(u64 set, u64 *match) {
  u64 filters = match ? *match : 0;
  bool is_excluded = filters & FILTER_EXCLUDE;
  bool is_not_included = (set & FILTER_INCLUDE) && !(filters & FILTER_INCLUDE);
  return is_excluded || is_not_included;
}

/* Whether the filters of a kind reject a value. */
static inline bool value_is_filtered(u64 state, enum filter_kind kind, u64 first, u64 second) {
  if (!FILTER_SET(state, kind)) return false;
  struct filter_key key = {FILTER_BANK(state) << 8 | kind, {first, second}};
  return is_rejected(FILTER_SET(state, kind), filter_values.lookup(&key));
}

/* Whether the current task, one of the agent's threads, is the canary. */
static inline bool is_canary(void) {
  u64 name[2] = {};
  bpf_get_current_comm(name, sizeof(name));
  return name[0] == CANARY_NAME_FIRST && name[1] == CANARY_NAME_SECOND;
}

/* Whether a process is the embedded store. */
static inline bool is_store(u64 process) {
  int index = STORE_INDEX;
  u64 *store = filter_state.lookup(&index);
  return store && *store == process;
}

/* Whether the filters reject the current task's events. Keeps the state in the block, so that one
 * state decides the whole event. */
static inline bool task_is_filtered(struct block *b) {
  int zero = 0;
  u64 *stored = filter_state.lookup(&zero);
  u64 state = stored ? *stored & ~FILTER_DROP : 0;
  u64 ids = bpf_get_current_pid_tgid();
  state |= is_store(ids >> 32) ? FILTER_STORE : 0;
  b->_filters = state;
  if (FILTER_IS_AGENT(state, ids >> 32)) {
    if (!is_canary()) return true;
    b->_filters = FILTER_NO_AGENT | FILTER_CANARY;
    return false;
  }
  if (!(state & FILTER_ANY)) return false;
  if (value_is_filtered(state, FILTER_PID, ids >> 32, 0)) return true;
  if (value_is_filtered(state, FILTER_UID, (u32)bpf_get_current_uid_gid(), 0)) return true;
  if (FILTER_SET(state, FILTER_CGROUP) &&
      value_is_filtered(state, FILTER_CGROUP, cgroup_of(CURRENT_TASK), 0))
    return true;
  if (FILTER_SET(state, FILTER_COMM)) {
    u64 name[2];
    bpf_get_current_comm(name, sizeof(name));
    return value_is_filtered(state, FILTER_COMM, name[0], name[1]);
  }
  return false;
}

/* Whether a thread of the agent other than its first started the current process: the loader of a
 * probe is the agent's own work, too. The kernel stores the thread that started a process; one that
 * loses its parent gets the first thread of another process. */
static inline bool is_started_by_agent(u64 state, u32 parent_pid) {
  if (!FILTER_IS_AGENT(state, parent_pid)) return false;
  u64 parent = MEMBER(u64, CURRENT_TASK, task_struct__real_parent);
  return MEMBER(u32, parent, task_struct__pid) != parent_pid;
}

/* Drops the event if it is of a process that the agent started. */
static inline void drop_if_started_by_agent(struct block *b, u32 parent_pid) {
  if (is_started_by_agent(b->_filters, parent_pid)) b->_filters |= FILTER_DROP;
}

#ifdef FILTER_PATH
/* Applies a macro to the column that FILTER_PATH names. */
#define FILTER_TEXT(macro, b, name) macro(b, name)
#define PATH_IS_UNKNOWN(b, name) ((b)->_quality & (TEXT_CUT(name) | TEXT_MISSING(name)))

/* Finds the longest prefix of a path in a bank; NULL if there is none. */
static inline u64 *find_prefix(struct block *b, u8 bank, u64 length, const char *path) {
  struct filter_prefix *prefix = (void *)b->_prefix;
  prefix->bits = 8 + 8 * (length < FILTER_PATH_BYTES ? length : FILTER_PATH_BYTES);
  prefix->bank = bank;
  bpf_probe_read_kernel(prefix->path, FILTER_PATH_BYTES, path);
  return filter_prefixes.lookup(prefix);
}

/* Whether the filters by path reject the event in the current slot. */
static inline bool path_is_filtered(struct block *b) {
  u64 state = b->_filters;
  u64 length = FILTER_TEXT(TEXT_LENGTH, b, FILTER_PATH);
  char *path = FILTER_TEXT(TEXT_START, b, FILTER_PATH);
#ifdef FILTER_GIVEN_PATH
  if (!length && state & FILTER_STORE) {
    u64 given = FILTER_TEXT(TEXT_LENGTH, b, FILTER_GIVEN_PATH);
    return find_prefix(b, STORE_BANK, given, FILTER_TEXT(TEXT_START, b, FILTER_GIVEN_PATH));
  }
#endif
  if (!length || !(FILTER_SET(state, FILTER_PATHS) || state & FILTER_STORE)) return false;
  if (FILTER_TEXT(PATH_IS_UNKNOWN, b, FILTER_PATH)) return false;
  if (state & FILTER_STORE && find_prefix(b, STORE_BANK, length, path)) return true;
  return is_rejected(FILTER_SET(state, FILTER_PATHS),
                     find_prefix(b, FILTER_BANK(state), length, path));
}
#endif

/* Whether the event in the current slot must not be published. */
static inline bool event_is_filtered(struct block *b) {
  if (b->_filters & FILTER_DROP) return true;
#ifdef FILTER_PATH
  return path_is_filtered(b);
#else
  return false;
#endif
}
