// The floors: the shortest hand-written loops that do a manager's work, without its bookkeeping,
// its errno policy and its ways to stop. Everything else is measured against them.
//
// Durations are of CLOCK_MONOTONIC, in nanoseconds. Descriptors and memory are the caller's. A
// floor runs on fresh memory, alone: an outcome that a manager would have to handle is an exception
// here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/linux/range.hpp"
#include "engine/linux/thread.hpp"

namespace uffd::workload {

struct BulkCopyPlan {
  int fd = -1;  // a userfaultfd; [start, start + length) is registered and missing
  uint64_t start = 0;
  uint64_t source = 0;
  uint64_t length = 0;
  uint64_t chunk = 0;     // bytes to one UFFDIO_COPY
  size_t threads = 1;     // each copies one contiguous part
  std::vector<Cpu> cpus;  // thread i is held to cpus[i % size]; empty: all are free
};
// From the start of the first thread's loop to the end of the last one's.
uint64_t bulk_copy(const BulkCopyPlan& plan);

// UFFDIO_CONTINUE of [start, start + length), whose pages are in the page cache, by this thread.
uint64_t bulk_continue(int fd, uint64_t start, uint64_t length, uint64_t chunk);

// Of close(2) alone.
uint64_t close_fd(int fd);

// UFFDIO_UNREGISTER and UFFDIO_WAKE of each range, then close(2). After an exception the descriptor
// is still open.
uint64_t unregister_and_close(int fd, const std::vector<Range>& ranges);

// From resident memory into resident memory.
uint64_t memcpy_floor(uint64_t destination, uint64_t source, uint64_t length) noexcept;

// pread(2) of the file's first bytes into memory.
uint64_t read_floor(int fd, uint64_t destination, uint64_t length, uint64_t chunk);

// First write touches of fresh memory, by this thread.
uint64_t native_touch(uint64_t address, uint64_t length, uint64_t page_size);

// MADV_DONTNEED: the next touches are first touches again.
void release_pages(uint64_t address, uint64_t length);

// Touches that much fresh memory and unmaps it. A virtual machine gives free memory back to its
// host and waits for every page of it at the next first touch, so warm before timing.
void warm(uint64_t length);

}  // namespace uffd::workload
