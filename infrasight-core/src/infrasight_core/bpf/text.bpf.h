/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Fills TEXT columns: strings and bytes of variable length, with a flag for every value that was
 * truncated or could not be read. Included by infrasight.bpf.h.
 */

/* The length of a text so far, and the addresses of its first and of its next byte. */
#define TEXT_LENGTH(b, name) ((b)->_length[TEXT_##name])
#define TEXT_POSITION(b, name) ((b)->_heap_head[TEXT_##name] & (name##_heap_size - 1))
#define TEXT_START(b, name) (&(b)->name##__heap[TEXT_POSITION(b, name)])
#define TEXT_AT(b, name)                                                                           \
  (&(b)->name##__heap[TEXT_POSITION(b, name) + (TEXT_LENGTH(b, name) & (name##_max - 1))])

/* Makes the compiler forget what it knows about a number, so that a following check is done on the
 * very register that is used. The verifier does not see that a check of one number also bounds
 * another number that was computed from it. */
#define OPAQUE(number) asm volatile("" : "+r"(number))

/* Sets a text's length from the result of reading a string of at most max + 1 bytes: the length
 * with the NUL, or an error. Kernels before 6.13 return 0 for an empty string. */
#define SET_STRING_LENGTH(b, name, result)                                                         \
  ({                                                                                               \
    long read_ = (result);                                                                         \
    if (read_ < 0) {                                                                               \
      (b)->_quality |= TEXT_MISSING(name);                                                         \
    } else if (read_ > name##_max) {                                                               \
      (b)->_quality |= TEXT_CUT(name);                                                             \
      TEXT_LENGTH(b, name) = name##_max;                                                           \
    } else {                                                                                       \
      TEXT_LENGTH(b, name) = read_ > 0 ? read_ - 1 : 0;                                            \
    }                                                                                              \
  })

/* Fills a TEXT column with a string, from kernel memory or from user memory. Another thread may
 * have changed the latter, so that it is flagged. */
#define SET_KERNEL_STRING(b, name, pointer)                                                        \
  SET_STRING_LENGTH(b, name, bpf_probe_read_kernel_str(TEXT_AT(b, name), name##_max + 1, pointer))
#define SET_USER_STRING(b, name, pointer)                                                          \
  ({                                                                                               \
    (b)->_quality |= TEXT_USER_MEMORY(name);                                                       \
    SET_STRING_LENGTH(b, name,                                                                     \
                      bpf_probe_read_user_str(TEXT_AT(b, name), name##_max + 1, pointer));         \
  })

/* Appends a TEXT column that holds a path to another TEXT column, whose max is twice as large. */
#define APPEND_PATH(b, name, other)                                                                \
  ({                                                                                               \
    u64 length_ = TEXT_LENGTH(b, other);                                                           \
    OPAQUE(length_);                                                                               \
    if (length_ >= PATH_BYTES) {                                                                   \
      (b)->_quality |= TEXT_CUT(name);                                                             \
    } else {                                                                                       \
      bpf_probe_read_kernel(TEXT_AT(b, name), length_, TEXT_START(b, other));                      \
      TEXT_LENGTH(b, name) += length_;                                                             \
    }                                                                                              \
  })

/* Fills a TEXT column with `size` bytes of user memory, truncated if they do not fit. */
#define SET_USER_BYTES(b, name, pointer, size)                                                     \
  ({                                                                                               \
    u64 wanted_ = (size);                                                                          \
    OPAQUE(wanted_);                                                                               \
    if (wanted_ > name##_max) {                                                                    \
      (b)->_quality |= TEXT_CUT(name);                                                             \
      wanted_ = name##_max;                                                                        \
    }                                                                                              \
    if (bpf_probe_read_user(TEXT_AT(b, name), wanted_, pointer))                                   \
      (b)->_quality |= TEXT_MISSING(name);                                                         \
    else                                                                                           \
      TEXT_LENGTH(b, name) = wanted_;                                                              \
  })
