// Packets with descriptors, over a unix socket (unix(7), SCM_RIGHTS). Neither allocates nor throws.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstring>
#include <span>

#include "engine/linux/fd.hpp"

namespace uffd {

inline constexpr size_t kMostSentDescriptors = 3;

// 0 or -errno. Never raises SIGPIPE.
template <typename Packet>
int send_packet(int socket, const Packet& packet, std::span<const int> descriptors,
                int flags = 0) noexcept {
  iovec bytes{const_cast<Packet*>(&packet), sizeof packet};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMostSentDescriptors)> ancillary{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = ancillary.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  const ssize_t sent = sys::or_errno(::sendmsg(socket, &message, flags | MSG_NOSIGNAL));
  return sent < 0 ? static_cast<int>(sent) : 0;
}

template <typename Packet>
struct Received {
  ssize_t bytes = 0;  // of the packet; 0: the peer has closed; -errno
  Packet packet{};
  std::array<Fd, kMostSentDescriptors> descriptors{};
};

template <typename Packet>
Received<Packet> receive_packet(int socket, int flags = 0) noexcept {
  Received<Packet> received;
  iovec bytes{&received.packet, sizeof received.packet};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMostSentDescriptors)> ancillary{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = ancillary.data();
  message.msg_controllen = ancillary.size();
  received.bytes = sys::or_errno(::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC));
  if (received.bytes < 0) return received;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count && i < kMostSentDescriptors; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      received.descriptors[i] = Fd(fd);
    }
  }
  return received;
}

}  // namespace uffd
