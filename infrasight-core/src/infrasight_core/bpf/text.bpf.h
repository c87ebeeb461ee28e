/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * TEXT columns: strings and bytes at their own length, what was cut or could not be read flagged. Included by infrasight.bpf.h.
 */
/* How long a text is so far, and where its next byte goes. */
#define TEXT_LENGTH(b, name) ((b)->_length[TEXT_##name])
#define TEXT_AT(b, name)                                                                                                       \
  (&(b)->name##__heap[((b)->_heap_head[TEXT_##name] & (name##_heap_size - 1)) + (TEXT_LENGTH(b, name) & (name##_max - 1))])

/* Where a text begins. */
#define TEXT_START(b, name) (&(b)->name##__heap[(b)->_heap_head[TEXT_##name] & (name##_heap_size - 1)])

/* Takes what a read of a string of at most max + 1 bytes returned: its length with the NUL, or an error. */
#define TAKE_STRING(b, name, result)                                                                                           \
  ({                                                                                                                           \
    long read_ = (result);                                                                                                     \
    if (read_ < 0)                                                                                                             \
      (b)->_quality |= TEXT_MISSING(name);                                                                                     \
    else if (read_ > name##_max)                                                                                               \
      (b)->_quality |= TEXT_CUT(name), TEXT_LENGTH(b, name) = name##_max;                                                      \
    else                                                                                                                       \
      TEXT_LENGTH(b, name) = read_ > 0 ? read_ - 1 : 0; /* before 6.13, 0 for an empty one */                                  \
  })

/* The one string of a TEXT column, from kernel memory or from the program's own, which another thread may have changed. */
#define SET_KERNEL_STRING(b, name, pointer)                                                                                    \
  TAKE_STRING(b, name, bpf_probe_read_kernel_str(TEXT_AT(b, name), name##_max + 1, pointer))
#define SET_USER_STRING(b, name, pointer)                                                                                      \
  ({                                                                                                                           \
    (b)->_quality |= TEXT_USER_MEMORY(name);                                                                                   \
    TAKE_STRING(b, name, bpf_probe_read_user_str(TEXT_AT(b, name), name##_max + 1, pointer));                                  \
  })

/* Adds a path that is a TEXT column to another one, whose max is twice as large. */
#define APPEND_PATH(b, name, other)                                                                                            \
  ({                                                                                                                           \
    u64 length_ = TEXT_LENGTH(b, other);                                                                                       \
    OPAQUE(length_);                                                                                                           \
    if (length_ >= PATH_BYTES)                                                                                                 \
      (b)->_quality |= TEXT_CUT(name);                                                                                         \
    else {                                                                                                                     \
      bpf_probe_read_kernel(TEXT_AT(b, name), length_, TEXT_START(b, other));                                                  \
      TEXT_LENGTH(b, name) += length_;                                                                                         \
    }                                                                                                                          \
  })

/* Bytes of user memory as they are, `size` of them; more than fits is cut. */
#define SET_USER_BYTES(b, name, pointer, size)                                                                                 \
  ({                                                                                                                           \
    u64 wanted_ = (size);                                                                                                      \
    OPAQUE(wanted_);                                                                                                           \
    if (wanted_ > name##_max) (b)->_quality |= TEXT_CUT(name), wanted_ = name##_max;                                           \
    if (bpf_probe_read_user(TEXT_AT(b, name), wanted_, pointer))                                                               \
      (b)->_quality |= TEXT_MISSING(name);                                                                                     \
    else                                                                                                                       \
      TEXT_LENGTH(b, name) = wanted_;                                                                                          \
  })
