#include "engine/source/file_source.hpp"

#include <sys/stat.h>

#include <stdexcept>

#ifndef MADV_POPULATE_READ  // Linux 5.14
#define MADV_POPULATE_READ 22
#endif

namespace uffd {

FileSource::FileSource(const std::string& path)
    // Without O_NONBLOCK the open of a fifo waits for a writer.
    : path_(path), file_(sys::open(path.c_str(), O_RDONLY | O_NONBLOCK)) {
  if (file_.get() < 0)
    throw SystemError(-file_.get(), "cannot open the source file '" + path + "'");
  struct stat status;
  or_throw(::fstat(file_.get(), &status), "fstat");
  if (!S_ISREG(status.st_mode)) {
    throw std::invalid_argument("the source '" + path +
                                "' is not a regular file: give a regular file or MemorySource");
  }
  if (status.st_size == 0) throw std::invalid_argument("the source file '" + path + "' is empty");
  length_ = static_cast<uint64_t>(status.st_size);
  void* address = ::mmap(nullptr, length_, PROT_READ, MAP_SHARED, file_.get(), 0);
  if (address == MAP_FAILED) throw SystemError(errno, "cannot map the source file '" + path + "'");
  bytes_ = static_cast<const std::byte*>(address);
}

FileSource::~FileSource() {
  ::munmap(const_cast<std::byte*>(bytes_), length_);
}

void FileSource::prepare(uint64_t offset, uint64_t length) const noexcept {
  const uint64_t start = offset & ~(sys::page_size() - 1);
  sys::madvise(reinterpret_cast<uint64_t>(bytes_) + start, offset + length - start,
               MADV_POPULATE_READ);
}

void FileSource::read(uint64_t offset, std::span<std::byte> into) const {
  check_range(offset, into.size());
  while (!into.empty()) {
    const ssize_t count =
        ::pread(file_.get(), into.data(), into.size(), static_cast<off_t>(offset));
    if (count < 0) throw SystemError(errno, "cannot read the source file '" + path_ + "'");
    if (count == 0) {
      throw std::out_of_range("the source file '" + path_ + "' shrank below byte " +
                              std::to_string(offset));
    }
    offset += static_cast<uint64_t>(count);
    into = into.subspan(static_cast<size_t>(count));
  }
}

}  // namespace uffd
