/* Does UFFDIO_UNREGISTER leave threads asleep?  cc -O2 -pthread unregister-lost-wake.c -o unregister-lost-wake
 *
 * A thread touches the last page of a range, and nobody serves the fault. UFFDIO_UNREGISTER is to wake it: half a second
 * later it is through, or it was left asleep. UFFDIO_WAKE of the range then has to wake it. Each case is one way to
 * register the range. Prints a line of JSON for each case, with the stack of the first thread that was left asleep
 * (which root may read); exits with 1 where one was, with 2 where a case cannot be tried.
 *
 * unregister-lost-wake [CASE...]; needs Linux 5.13 or newer with two CPUs, and no permission: the userfaultfd is a
 * user-mode-only one.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

enum { ROUNDS = 10, PAGES = 65536, ASLEEP_MS = 500, STUCK_MS = 5000 };

static const struct way {
  const char *name;
  unsigned long mode;
  int during; /* touched while UNREGISTER runs, not before it */
} ways[] = {
    {"missing", UFFDIO_REGISTER_MODE_MISSING, 0},
    /* All other pages are write-protected: UNREGISTER walks them between its wake and the lock of the VMA. */
    {"missing-wp", UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP, 1},
    {"wp", UFFDIO_REGISTER_MODE_WP, 0},
    {"minor", UFFDIO_REGISTER_MODE_MINOR, 0},
};

struct toucher {
  char *page;
  pid_t id;
  uint64_t delay_ns; /* from going until the touch */
  atomic_int ready, going;
  sem_t through;
};

struct count {
  int rounds, asleep, woken_by_wake, fdinfo_failures;
  uint64_t unregister_ns;
  char stack[2048], fdinfo[512];
};

static size_t page_size, length;

static uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void *touch(void *argument) {
  struct toucher *toucher = argument;
  toucher->id = syscall(SYS_gettid);
  toucher->ready = 1;
  while (!toucher->going) continue;
  for (uint64_t end = now_ns() + toucher->delay_ns; now_ns() < end;) continue;
  *(volatile char *)toucher->page = 1;
  sem_post(&toucher->through);
  return NULL;
}

static int through_within(struct toucher *toucher, long ms) {
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += ms / 1000;
  end.tv_nsec += ms % 1000 * 1000000;
  if (end.tv_nsec >= 1000000000) ++end.tv_sec, end.tv_nsec -= 1000000000;
  return sem_timedwait(&toucher->through, &end) == 0;
}

/* A file of /proc as one line for JSON; returns 0 where it cannot be read. */
static int read_line(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);
  if (fd >= 0) close(fd);
  text[got < 0 ? 0 : got] = 0;
  for (char *c = text; *c; ++c) {
    if (*c == '\n') *c = c[1] ? ';' : 0;
    else if (*c < ' ' || *c == '"' || *c == '\\') *c = ' ';
  }
  return got > 0;
}

static int open_userfaultfd(const struct way *way) {
  int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  struct uffdio_api api = {.api = UFFD_API};
  if (way->mode & UFFDIO_REGISTER_MODE_WP) api.features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  if (way->mode & UFFDIO_REGISTER_MODE_MINOR) api.features |= UFFD_FEATURE_MINOR_SHMEM;
  if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) err(2, "%s: userfaultfd", way->name);
  return uffd;
}

/* Minor faults come where the page is in the page cache, and not in the page table. */
static char *map(const struct way *way) {
  int minor = way->mode == UFFDIO_REGISTER_MODE_MINOR;
  int fd = minor ? memfd_create("unregister-lost-wake", MFD_CLOEXEC) : -1;
  if (minor && (fd < 0 || ftruncate(fd, length) || pwrite(fd, "", 1, length - page_size) != 1)) err(2, "memfd");
  char *memory =
      mmap(NULL, length, PROT_READ | PROT_WRITE, minor ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
  if (memory == MAP_FAILED) err(2, "mmap");
  madvise(memory, length, MADV_NOHUGEPAGE);
  if (fd >= 0) close(fd);
  if (way->mode == UFFDIO_REGISTER_MODE_WP) memory[length - page_size] = 1;
  return memory;
}

/* Leaves a fault in the last page alone. */
static void populate(const struct way *way, int uffd, char *memory) {
  size_t but_last = length - page_size;
  struct uffdio_range range = {(uintptr_t)memory, but_last};
  struct uffdio_zeropage zero = {.range = range};
  struct uffdio_writeprotect protect = {.range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  if (way->mode & UFFDIO_REGISTER_MODE_MISSING && ioctl(uffd, UFFDIO_ZEROPAGE, &zero)) err(2, "UFFDIO_ZEROPAGE");
  if (way->mode == UFFDIO_REGISTER_MODE_WP) protect.range = (struct uffdio_range){(uintptr_t)memory + but_last, page_size};
  if (way->mode & UFFDIO_REGISTER_MODE_WP && ioctl(uffd, UFFDIO_WRITEPROTECT, &protect)) err(2, "UFFDIO_WRITEPROTECT");
}

static void play(const struct way *way, struct count *count) {
  char path[64];
  char *memory = map(way);
  int uffd = open_userfaultfd(way);
  struct uffdio_range range = {(uintptr_t)memory, length};
  struct uffdio_register registration = {.range = range, .mode = way->mode};
  if (ioctl(uffd, UFFDIO_REGISTER, &registration)) err(2, "%s: UFFDIO_REGISTER", way->name);
  populate(way, uffd, memory);

  /* The first round of a case that is touched meanwhile finds out how long UNREGISTER takes. */
  int alone = way->during && !count->unregister_ns;
  struct toucher toucher = {.page = memory + length - page_size, .delay_ns = way->during ? count->unregister_ns / 3 : 0};
  sem_init(&toucher.through, 0, 0);
  pthread_t thread;
  if (pthread_create(&thread, NULL, touch, &toucher)) errx(2, "pthread_create");
  while (!toucher.ready) continue; /* on a CPU of its own from here on */
  struct pollfd fault = {uffd, POLLIN, 0};
  if (!alone) toucher.going = 1;
  if (!way->during && poll(&fault, 1, STUCK_MS) != 1) errx(2, "%s: the fault did not come", way->name);

  uint64_t began = now_ns();
  if (ioctl(uffd, UFFDIO_UNREGISTER, &range)) err(2, "UFFDIO_UNREGISTER");
  count->unregister_ns = now_ns() - began;
  toucher.going = 1;

  count->rounds += !alone;
  if (!through_within(&toucher, ASLEEP_MS)) {
    snprintf(path, sizeof path, "/proc/self/task/%d/stack", toucher.id);
    if (!count->asleep++) read_line(path, count->stack, sizeof count->stack);
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", uffd);
    count->fdinfo_failures += !read_line(path, count->fdinfo, sizeof count->fdinfo);
    if (ioctl(uffd, UFFDIO_WAKE, &range)) err(2, "UFFDIO_WAKE");
    if (!through_within(&toucher, STUCK_MS)) errx(2, "%s: still asleep after UFFDIO_WAKE", way->name);
    ++count->woken_by_wake;
  }
  pthread_join(thread, NULL);
  sem_destroy(&toucher.through);
  close(uffd);
  munmap(memory, length);
}

static int asked_for(const char *name, int count, char **names) {
  for (int i = 0; i < count; ++i) {
    if (!strcmp(name, names[i])) return 1;
  }
  return count == 0;
}

int main(int argc, char **argv) {
  int asleep = 0;
  page_size = sysconf(_SC_PAGESIZE);
  length = PAGES * page_size;
  for (const struct way *way = ways; way < ways + sizeof ways / sizeof *ways; ++way) {
    if (!asked_for(way->name, argc - 1, argv + 1)) continue;
    struct count count = {0};
    while (count.rounds < ROUNDS) play(way, &count);
    asleep += count.asleep;
    printf("{\"case\": \"%s\", \"rounds\": %d, \"asleep\": %d, \"woken_by_wake\": %d, \"unregister_ns\": %llu, "
           "\"fdinfo_failures\": %d, \"fdinfo\": \"%s\", \"stack\": \"%s\"}\n",
           way->name, count.rounds, count.asleep, count.woken_by_wake, (unsigned long long)count.unregister_ns,
           count.fdinfo_failures, count.fdinfo, count.stack);
    fflush(stdout);
  }
  return asleep > 0;
}
