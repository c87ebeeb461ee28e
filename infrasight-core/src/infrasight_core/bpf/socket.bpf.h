/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sockets, from the kernel's objects. A probe includes this file after infrasight.bpf.h. SET_SOCKET
 * and SET_TUPLE fill columns of these names, which the probe lists:
 *
 *   FIXED(u32, family) FIXED(u32, socket_type) FIXED(u32, protocol)
 *   CHARS(local_address, 16) CHARS(remote_address, 16)
 *   FIXED(u32, local_port) FIXED(u32, remote_port)
 */
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_RAW 3
#define MAX_ADDRESS_BYTES 128   /* of a `struct sockaddr` */
#define MAX_UNIX_PATH_BYTES 109 /* `sockaddr_un.sun_path`, and the NUL that the kernel may add */

/* The two ends of a connection. Addresses are IPv6 in network order, IPv4 as ::ffff:a.b.c.d; zeros
 * if there is none. Ports are numbers in host order. */
struct tuple {
  u32 local[4], remote[4], local_port, remote_port;
};

/* The kernel's `struct sock` of a `struct file`; NULL if the file is no socket. The name of a Unix
 * socket in a file system, opened with O_PATH, has the same mode and no `struct socket`. */
static inline char *sock_of(char *file) {
  u16 file_mode = FIELD(u16, FIELD(char *, file, file__f_inode), inode__i_mode);
  char *socket = FIELD(char *, file, file__private_data);
  if (!file || (file_mode & S_IFMT) != S_IFSOCK) return NULL;
  if (FIELD(char *, socket, socket__file) != file) return NULL;
  return FIELD(char *, socket, socket__sk);
}

static inline void map_ipv4(u32 *to, u32 address) {
  to[0] = 0;
  to[1] = 0;
  to[2] = address ? __builtin_bswap32(0xffff) : 0;
  to[3] = address;
}

static inline void read_tuple(struct tuple *tuple, char *sk) {
  u16 sk_family = FIELD(u16, sk, sock_common__skc_family);
  u16 sk_type = FIELD(u16, sk, sock__sk_type);
  if (sk_family == AF_INET) {
    map_ipv4(tuple->local, FIELD(u32, sk, sock_common__skc_rcv_saddr));
    map_ipv4(tuple->remote, FIELD(u32, sk, sock_common__skc_daddr));
  } else if (sk_family == AF_INET6) {
    bpf_probe_read_kernel(tuple->local, 16, sk + OFFSET_sock_common__skc_v6_rcv_saddr);
    bpf_probe_read_kernel(tuple->remote, 16, sk + OFFSET_sock_common__skc_v6_daddr);
  } else {
    return;
  }
  if (sk_type == SOCK_RAW) return;
  /* This member keeps the port when the kernel releases it. */
  tuple->local_port = __builtin_bswap16(FIELD(u16, sk, inet_sock__inet_sport));
  tuple->remote_port = __builtin_bswap16(FIELD(u16, sk, sock_common__skc_dport));
  bool has_ended = !tuple->remote_port && sk_type == SOCK_STREAM;
  if (has_ended) map_ipv4(tuple->remote, 0);
}

#define SET_TUPLE(b, ends)                                                                         \
  ({                                                                                               \
    struct tuple *tuple_ = (ends);                                                                 \
    __builtin_memcpy(CHARS_AT(b, local_address, 16), tuple_->local, 16);                           \
    __builtin_memcpy(CHARS_AT(b, remote_address, 16), tuple_->remote, 16);                         \
    SET(b, local_port, tuple_->local_port);                                                        \
    SET(b, remote_port, tuple_->remote_port);                                                      \
  })

/* The kind of a socket; zeros if `sk` is NULL. */
#define SET_SOCKET(b, sk)                                                                          \
  ({                                                                                               \
    char *sk_ = (sk);                                                                              \
    SET(b, family, FIELD(u16, sk_, sock_common__skc_family));                                      \
    SET(b, socket_type, FIELD(u16, sk_, sock__sk_type));                                           \
    SET(b, protocol, FIELD(u16, sk_, sock__sk_protocol));                                          \
  })

/* The name of a Unix socket: a path without the NUL that ends it, or the bytes of an abstract name,
 * whose first is NUL; empty if the socket has no name. */
#define SET_UNIX_PATH(b, name, sk)                                                                 \
  ({                                                                                               \
    char *address_ = FIELD(char *, sk, unix_sock__addr);                                           \
    u64 bytes_ = address_ ? FIELD(u32, address_, unix_address__len) - 2 : 0;                       \
    SET_UNIX_NAME(b, name, bpf_probe_read_kernel, address_ + OFFSET_unix_address__name + 2,        \
                  bytes_);                                                                         \
  })

/* The same from the bytes of a `sun_path`. Anything may follow the NUL that ends a path. */
#define SET_UNIX_NAME(b, name, read, pointer, bytes)                                               \
  ({                                                                                               \
    char *path_ = (pointer);                                                                       \
    char first_ = 0;                                                                               \
    u64 wanted_ = (bytes);                                                                         \
    long failed_ = wanted_ ? read(&first_, 1, path_) : 0;                                          \
    if (wanted_ > MAX_UNIX_PATH_BYTES) failed_ = -1;                                               \
    OPAQUE(wanted_); /* keeps the mask, from which 6.12 derives the bound */                       \
    wanted_ &= 127;                                                                                \
    if (failed_)                                                                                   \
      (b)->_quality |= TEXT_MISSING(name);                                                         \
    else if (first_)                                                                               \
      SET_STRING_LENGTH(b, name, read##_str(TEXT_AT(b, name), wanted_ + 1, path_));                \
    else if (wanted_ && read(TEXT_AT(b, name), wanted_, path_))                                    \
      (b)->_quality |= TEXT_MISSING(name);                                                         \
    else                                                                                           \
      TEXT_LENGTH(b, name) = wanted_;                                                              \
  })

/* Whether the columns can hold the addresses of a family: netlink's, for example, have none. The
 * probe flags the row of a socket of another family remote_address_missing. */
static inline bool has_address_columns(u32 family) {
  return family == AF_UNIX || family == AF_INET || family == AF_INET6;
}

/* The beginning of a `struct sockaddr_in` or `struct sockaddr_in6`. */
struct user_address {
  u16 family, port;
  u32 ipv4, ipv6[4];
};

/* Fills remote_address and remote_port, or unix_path, with the address that the caller passed: a
 * `struct sockaddr` of `size` bytes in user memory. The probe has the flags remote_address_missing
 * and remote_address_user_memory. */
#define SET_USER_ADDRESS(b, pointer, size) SET_ADDRESS(b, bpf_probe_read_user, pointer, size)

/* The same for an address that was copied from user memory before, read by another helper. */
#define SET_ADDRESS(b, read, pointer, size)                                                        \
  ({                                                                                               \
    const char *given_ = (pointer);                                                                \
    s64 size_ = (size);                                                                            \
    struct user_address user_ = {};                                                                \
    u32 mapped_[4];                                                                                \
    u64 quality_ = FLAG(remote_address_user_memory);                                               \
    if (size_ < 2 || size_ > MAX_ADDRESS_BYTES || read(&user_.family, 2, given_)) size_ = 0;       \
    if (size_ && user_.family == AF_UNIX) {                                                        \
      quality_ = TEXT_USER_MEMORY(unix_path);                                                      \
      SET_UNIX_NAME(b, unix_path, read, (char *)given_ + 2, size_ - 2);                            \
    } else if (user_.family == AF_INET && size_ >= 8 && !read(&user_, 8, given_)) {                \
      map_ipv4(mapped_, user_.ipv4);                                                               \
      __builtin_memcpy(CHARS_AT(b, remote_address, 16), mapped_, 16);                              \
    } else if (user_.family == AF_INET6 && size_ >= 24 && !read(&user_, 24, given_)) {             \
      __builtin_memcpy(CHARS_AT(b, remote_address, 16), user_.ipv6, 16);                           \
    } else {                                                                                       \
      bool is_unix_ = GET(b, family) == AF_UNIX;                                                   \
      quality_ = is_unix_ ? TEXT_MISSING(unix_path) : FLAG(remote_address_missing);                \
    }                                                                                              \
    SET(b, remote_port, __builtin_bswap16(user_.port));                                            \
    (b)->_quality |= quality_;                                                                     \
  })
