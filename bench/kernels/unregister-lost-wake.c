/* Does UFFDIO_UNREGISTER leave threads asleep?  cc -O2 -pthread unregister-lost-wake.c -o unregister-lost-wake
 *
 * Readers touch fresh pages of one range as fast as they can, while the main thread registers and unregisters it and
 * serves nothing. After UNREGISTER nothing is registered, so nobody may sleep: a fault that is still pending 20 ms later
 * (fdinfo) belongs to a thread that was not woken. With an argument, UFFDIO_WAKE of the range follows each UNREGISTER.
 * Prints the counts; exits with 1 where a thread was left asleep.
 *
 * Needs Linux 5.11 or newer with two CPUs, and no permission: the userfaultfd is a user-mode-only one.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

enum { READERS = 4, PAGES = 64 };

static char *memory;
static size_t page;
static volatile int stop;

static void *reader(void *argument) {
  char *part = memory + (size_t)argument * PAGES * page;
  while (!stop) {
    madvise(part, PAGES * page, MADV_DONTNEED);
    for (int i = 0; i < PAGES && !stop; ++i) (void)*(volatile char *)(part + i * page);
  }
  return NULL;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

/* Faults that are queued and not read. */
static int pending(int uffd) {
  char path[64], text[256];
  int count = 0;
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", uffd);
  FILE *file = fopen(path, "r");
  while (file && fgets(text, sizeof text, file)) {
    if (sscanf(text, "pending: %d", &count) == 1) break;
  }
  if (file) fclose(file);
  return count;
}

/* Threads that sleep although nothing is registered. */
static int asleep(int uffd) {
  int count;
  for (double end = now() + 0.02; (count = pending(uffd)) > 0 && now() < end;) sched_yield();
  return count;
}

int main(int argc, char **argv) {
  (void)argv;
  page = sysconf(_SC_PAGESIZE);
  size_t length = READERS * PAGES * page;
  memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) err(2, "mmap");
  madvise(memory, length, MADV_NOHUGEPAGE);
  memory[0] = 1; /* gives the VMA its anon_vma: faults then take the lock of the VMA alone */

  int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  struct uffdio_api api = {.api = UFFD_API};
  if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) err(2, "userfaultfd");

  pthread_t threads[READERS];
  for (size_t i = 0; i < READERS; ++i) pthread_create(&threads[i], NULL, reader, (void *)i);

  struct uffdio_range range = {(unsigned long)memory, length};
  struct uffdio_register registration = {.range = range, .mode = UFFDIO_REGISTER_MODE_MISSING};
  long rounds = 0, lost = 0;
  for (double end = now() + 10; now() < end; ++rounds) {
    if (ioctl(uffd, UFFDIO_REGISTER, &registration)) err(2, "UFFDIO_REGISTER");
    for (long i = rounds % 4; i > 0; --i) sched_yield();
    if (ioctl(uffd, UFFDIO_UNREGISTER, &range)) err(2, "UFFDIO_UNREGISTER");
    if (argc > 1) ioctl(uffd, UFFDIO_WAKE, &range);
    if (pending(uffd) == 0) continue;
    lost += asleep(uffd);
    ioctl(uffd, UFFDIO_WAKE, &range); /* rescues them, to go on */
  }
  stop = 1;
  for (size_t i = 0; i < READERS; ++i) pthread_join(threads[i], NULL);
  printf("%ld threads left asleep in %ld rounds of UNREGISTER%s\n", lost, rounds, argc > 1 ? " and WAKE" : "");
  return lost > 0;
}
