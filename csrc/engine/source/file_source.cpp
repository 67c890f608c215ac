#include "engine/source/file_source.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#ifndef MADV_POPULATE_READ  // Linux 5.14
#define MADV_POPULATE_READ 22
#endif

namespace uffd {

namespace {

// Suits every device whose blocks are not longer than this.
constexpr uint64_t kBlock = 4096;
// How far ahead of a fill the device shall be reading.
constexpr uint64_t kAhead = 8 * 1024 * 1024;

int open_file(const std::string& path, bool direct) {
  // Without O_NONBLOCK the open of a fifo waits for a writer.
  const int fd = sys::open(path.c_str(), O_RDONLY | O_NONBLOCK);
  if (fd < 0)
    throw SystemError(-fd, "cannot open the source file '" + path + "': " + errno_text(-fd));
  if (direct) ::fcntl(fd, F_SETFL, O_DIRECT);  // try_direct() sees whether it took effect
  return fd;
}

std::span<std::byte> aligned_part(std::vector<std::byte>& buffer, uint64_t length) {
  buffer.resize(length + kBlock);
  const auto start = reinterpret_cast<uint64_t>(buffer.data());
  return std::span(buffer).subspan((start + kBlock - 1) / kBlock * kBlock - start, length);
}

}  // namespace

FileSource::FileSource(const std::string& path, bool direct)
    : path_(path), direct_(direct), file_(open_file(path, direct)) {
  struct stat status;
  or_throw(::fstat(file_.get(), &status), "fstat");
  if (!S_ISREG(status.st_mode)) {
    throw std::invalid_argument("the source '" + path +
                                "' is not a regular file: give a regular file or MemorySource");
  }
  if (status.st_size == 0) throw std::invalid_argument("the source file '" + path + "' is empty");
  length_ = static_cast<uint64_t>(status.st_size);
  direct ? try_direct() : map();
}

void FileSource::map() {
  void* address = ::mmap(nullptr, length_, PROT_READ, MAP_SHARED, file_.get(), 0);
  if (address == MAP_FAILED) throw SystemError(errno, "cannot map the source file '" + path_ + "'");
  bytes_ = static_cast<const std::byte*>(address);
}

void FileSource::try_direct() const {
  std::vector<std::byte> buffer;
  const std::span<std::byte> block = aligned_part(buffer, kBlock);
  if ((::fcntl(file_.get(), F_GETFL) & O_DIRECT) &&
      ::pread(file_.get(), block.data(), block.size(), 0) > 0)
    return;
  throw UnsupportedError(EINVAL,
                         "the source file '" + path_ +
                             "' cannot be read past the page cache, because its file "
                             "system does not support O_DIRECT: give direct=False",
                         {});
}

FileSource::~FileSource() {
  if (bytes_) ::munmap(const_cast<std::byte*>(bytes_), length_);
}

void FileSource::prepare(uint64_t offset, uint64_t length) const noexcept {
  if (direct_) return;
  // The device reads on while this chunk is installed.
  const uint64_t end = offset + length;
  if (uint64_t ahead = ahead_; end + kAhead / 2 > ahead || end + 2 * kAhead < ahead) {
    if (ahead_.compare_exchange_strong(ahead, end + kAhead))
      ::readahead(file_.get(), static_cast<off64_t>(end), kAhead);
  }
  const uint64_t start = offset & ~(sys::page_size() - 1);
  sys::madvise(reinterpret_cast<uint64_t>(bytes_) + start, offset + length - start,
               MADV_POPULATE_READ);
}

void FileSource::read(uint64_t offset, std::span<std::byte> into) const {
  check_range(offset, into.size());
  const auto place = reinterpret_cast<uint64_t>(into.data());
  if (!direct_ || (offset | into.size() | place) % kBlock == 0) return read_blocks(offset, into);
  const uint64_t first = offset / kBlock * kBlock;
  const uint64_t end = (offset + into.size() + kBlock - 1) / kBlock * kBlock;
  std::vector<std::byte> buffer;
  // The file may end within the last block.
  const std::span<std::byte> blocks = aligned_part(buffer, end - first);
  read_blocks(first, blocks.first(std::min(end, length_) - first));
  std::copy_n(blocks.begin() + static_cast<ptrdiff_t>(offset - first), into.size(), into.begin());
}

void FileSource::read_blocks(uint64_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    // A direct read asks for whole blocks, of which the file may have the last one in part.
    const uint64_t asked =
        direct_ ? (into.size() + kBlock - 1) / kBlock * kBlock : uint64_t{into.size()};
    const ssize_t count = ::pread(file_.get(), into.data(), asked, static_cast<off_t>(offset));
    if (count < 0) throw SystemError(errno, "cannot read the source file '" + path_ + "'");
    const uint64_t got = std::min(static_cast<uint64_t>(count), uint64_t{into.size()});
    if (got == 0 || (direct_ && got < into.size() && got % kBlock != 0)) {
      throw std::out_of_range("the source file '" + path_ + "' shrank below byte " +
                              std::to_string(offset + into.size()));
    }
    offset += got;
    into = into.subspan(got);
  }
}

}  // namespace uffd
