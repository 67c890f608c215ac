// The userfaultfd uapi up to Linux 6.18: <linux/userfaultfd.h>, and what an older installed header
// lacks. Source: include/uapi/linux/userfaultfd.h of Linux 6.18, and userfaultfd(2),
// ioctl_userfaultfd(2).
#pragma once

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

#ifndef USERFAULTFD_IOC_NEW  // Linux 6.1
#define USERFAULTFD_IOC 0xAA
#define USERFAULTFD_IOC_NEW _IO(USERFAULTFD_IOC, 0x00)
#endif

#ifndef UFFD_USER_MODE_ONLY  // Linux 5.11
#define UFFD_USER_MODE_ONLY 1
#endif

#ifndef UFFD_FEATURE_MINOR_HUGETLBFS  // Linux 5.13
#define UFFD_FEATURE_MINOR_HUGETLBFS (1 << 9)
#endif
#ifndef UFFD_FEATURE_MINOR_SHMEM  // Linux 5.14
#define UFFD_FEATURE_MINOR_SHMEM (1 << 10)
#endif
#ifndef UFFD_FEATURE_EXACT_ADDRESS  // Linux 5.18
#define UFFD_FEATURE_EXACT_ADDRESS (1 << 11)
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM  // Linux 5.19
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED  // Linux 6.4
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON  // Linux 6.6
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC  // Linux 6.7
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_FEATURE_MOVE  // Linux 6.8
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

#ifndef UFFDIO_CONTINUE  // Linux 5.13
#define _UFFDIO_CONTINUE (0x07)
struct uffdio_continue {
  struct uffdio_range range;
  __u64 mode;
  __s64 mapped;
};
#define UFFDIO_CONTINUE_MODE_DONTWAKE ((__u64)1 << 0)
#define UFFDIO_CONTINUE _IOWR(UFFDIO, _UFFDIO_CONTINUE, struct uffdio_continue)
#define UFFDIO_REGISTER_MODE_MINOR ((__u64)1 << 2)
#define UFFD_PAGEFAULT_FLAG_MINOR (1 << 2)
#endif
#ifndef UFFDIO_CONTINUE_MODE_WP  // Linux 6.4
#define UFFDIO_CONTINUE_MODE_WP ((__u64)1 << 1)
#endif

#ifndef UFFDIO_POISON  // Linux 6.6
#define _UFFDIO_POISON (0x08)
struct uffdio_poison {
  struct uffdio_range range;
  __u64 mode;
  __s64 updated;
};
#define UFFDIO_POISON_MODE_DONTWAKE ((__u64)1 << 0)
#define UFFDIO_POISON _IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)
#endif

#ifndef UFFDIO_MOVE  // Linux 6.8
#define _UFFDIO_MOVE (0x05)
struct uffdio_move {
  __u64 dst;
  __u64 src;
  __u64 len;
  __u64 mode;
  __s64 move;
};
#define UFFDIO_MOVE_MODE_DONTWAKE ((__u64)1 << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#endif

// <linux/fs.h> of Linux 6.7: PAGEMAP_SCAN of /proc/PID/pagemap, under names of our own, since newer
// headers have it.
struct uffd_pagemap_scan {
  __u64 size;
  __u64 flags;
  __u64 start;
  __u64 end;
  __u64 walk_end;
  __u64 vec;
  __u64 vec_len;
  __u64 max_pages;
  __u64 category_inverted;
  __u64 category_mask;
  __u64 category_anyof_mask;
  __u64 return_mask;
};
struct uffd_pagemap_region {
  __u64 start;
  __u64 end;
  __u64 categories;
};
#define UFFD_PAGEMAP_SCAN _IOWR('f', 16, struct uffd_pagemap_scan)
#define UFFD_PAGEMAP_WRITTEN ((__u64)1 << 1)
#define UFFD_PAGEMAP_WP_MATCHING ((__u64)1 << 0)
#define UFFD_PAGEMAP_CHECK_WPASYNC ((__u64)1 << 1)

static_assert(UFFD_PAGEMAP_SCAN == 0xc0606610);
static_assert(sizeof(uffd_msg) == 32);
static_assert(UFFDIO_API == 0xc018aa3f);
static_assert(UFFDIO_REGISTER == 0xc020aa00);
static_assert(UFFDIO_UNREGISTER == 0x8010aa01);
static_assert(UFFDIO_WAKE == 0x8010aa02);
static_assert(UFFDIO_COPY == 0xc028aa03);
static_assert(UFFDIO_ZEROPAGE == 0xc020aa04);
static_assert(UFFDIO_MOVE == 0xc028aa05);
static_assert(UFFDIO_WRITEPROTECT == 0xc018aa06);
static_assert(UFFDIO_CONTINUE == 0xc020aa07);
static_assert(UFFDIO_POISON == 0xc020aa08);
static_assert(UFFD_EVENT_PAGEFAULT == 0x12 && UFFD_EVENT_UNMAP == 0x16);

namespace uffd {

// Set by the kernel in a context whose UFFDIO_API is done; shown in fdinfo only.
inline constexpr __u64 kFeatureInitialized = __u64{1} << 31;

inline constexpr __u64 kEventFeatures = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                                        UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;

}  // namespace uffd
