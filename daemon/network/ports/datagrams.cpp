#include "daemon/network/ports/datagrams.hpp"

#include <cerrno>
#include <cstring>

namespace userpod::ports {

Datagrams::Datagrams() : bytes_(new char[kCount * kSize]) {
  for (unsigned index = 0; index < kCount; ++index) {
    auto& header = messages_[index].msg_hdr;
    vectors_[index].iov_base = &bytes_[index * kSize];
    header.msg_iov = &vectors_[index];
    header.msg_iovlen = 1;
  }
}

int Datagrams::receive(int socket, bool named) {
  for (unsigned index = 0; index < kCount; ++index) {
    auto& header = messages_[index].msg_hdr;
    vectors_[index].iov_len = kSize;
    header.msg_name = named ? names_[index].raw() : nullptr;
    header.msg_namelen = named ? Endpoint::capacity() : 0;
    header.msg_control = named ? controls_[index].room : nullptr;
    header.msg_controllen = named ? sizeof controls_[index].room : 0;
  }
  int count = ::recvmmsg(socket, messages_.data(), kCount, MSG_DONTWAIT, nullptr);
  if (count < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
  for (int index = 0; index < count; ++index)
    vectors_[static_cast<unsigned>(index)].iov_len = messages_[static_cast<unsigned>(index)].msg_len;
  return count;
}

std::optional<Datagrams::Local> Datagrams::local(unsigned index) const {
  auto& header = const_cast<msghdr&>(messages_[index].msg_hdr);
  for (auto* control = CMSG_FIRSTHDR(&header); control != nullptr; control = CMSG_NXTHDR(&header, control)) {
    Local local;
    if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
      in_pktinfo info{};
      std::memcpy(&info, CMSG_DATA(control), sizeof info);
      local.address = Endpoint::any(AF_INET, 0);
      std::memcpy(local.address.bytes(), &info.ipi_spec_dst, sizeof info.ipi_spec_dst);
      local.link = info.ipi_ifindex;
      return local;
    }
    if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info{};
      std::memcpy(&info, CMSG_DATA(control), sizeof info);
      local.address = Endpoint::any(AF_INET6, 0);
      std::memcpy(local.address.bytes(), &info.ipi6_addr, sizeof info.ipi6_addr);
      local.link = static_cast<int>(info.ipi6_ifindex);
      return local;
    }
  }
  return std::nullopt;
}

void Datagrams::sendAll(int socket, unsigned first, unsigned count) {
  for (unsigned end = first + count; first < end;) {
    int sent = ::sendmmsg(socket, &messages_[first], end - first, MSG_DONTWAIT | MSG_NOSIGNAL);
    // An error is that of an earlier datagram, or the first one cannot go: on with the others.
    first += sent > 0 ? static_cast<unsigned>(sent) : 1;
    if (sent < 0 && errno == EAGAIN) return;
  }
}

void Datagrams::send(int socket, unsigned first, unsigned count) {
  for (unsigned index = first; index < first + count; ++index) {
    auto& header = messages_[index].msg_hdr;
    header.msg_name = nullptr;
    header.msg_namelen = 0;
    header.msg_control = nullptr;
    header.msg_controllen = 0;
  }
  sendAll(socket, first, count);
}

void Datagrams::sendTo(int socket, unsigned count, const Endpoint& to, const Local& local) {
  Control& control = controls_[0];
  control = {};
  if (to.v6()) {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, local.address.bytes(), sizeof info.ipi6_addr);
    info.ipi6_ifindex = static_cast<unsigned>(local.link);
    control.alignment = {.cmsg_len = CMSG_LEN(sizeof info), .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_PKTINFO};
    std::memcpy(CMSG_DATA(&control.alignment), &info, sizeof info);
  } else {
    in_pktinfo info{};
    std::memcpy(&info.ipi_spec_dst, local.address.bytes(), sizeof info.ipi_spec_dst);
    control.alignment = {.cmsg_len = CMSG_LEN(sizeof info), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO};
    std::memcpy(CMSG_DATA(&control.alignment), &info, sizeof info);
  }
  names_[0] = to;
  for (unsigned index = 0; index < count; ++index) {
    auto& header = messages_[index].msg_hdr;
    header.msg_name = names_[0].raw();
    header.msg_namelen = to.size();
    header.msg_control = control.room;
    header.msg_controllen = to.v6() ? CMSG_SPACE(sizeof(in6_pktinfo)) : CMSG_SPACE(sizeof(in_pktinfo));
  }
  sendAll(socket, 0, count);
}

}  // namespace userpod::ports
