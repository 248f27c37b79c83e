#include "daemon/sys/netlink.hpp"

#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace userpod {
namespace {

// The kernel's own words about a failed request (NLMSGERR_ATTR_MSG), "" when it gave none.
std::string extendedText(const nlmsghdr* header) {
  if ((header->nlmsg_flags & NLM_F_ACK_TLVS) == 0) return {};
  const auto* error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(header));
  std::size_t offset = sizeof(nlmsgerr);
  if ((header->nlmsg_flags & NLM_F_CAPPED) == 0) offset += MNL_ALIGN(error->msg.nlmsg_len) - sizeof(nlmsghdr);
  if (offset > mnl_nlmsg_get_payload_len(header)) return {};
  const auto* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(header));
  const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(header, offset));
  for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
       attribute = mnl_attr_next(attribute)) {
    if (mnl_attr_get_type(attribute) == NLMSGERR_ATTR_MSG && mnl_attr_validate(attribute, MNL_TYPE_NUL_STRING) >= 0)
      return mnl_attr_get_str(attribute);
  }
  return {};
}

}  // namespace

NetlinkBatch::NetlinkBatch() : buffer_(kCapacity) {}

std::size_t NetlinkBatch::used() const {
  return message_ == nullptr ? 0 : begun_ + MNL_ALIGN(message_->nlmsg_len);
}

void NetlinkBatch::require(std::size_t more) const {
  if (used() + MNL_ALIGN(more) + MNL_ATTR_HDRLEN > kCapacity) std::abort();
}

void* NetlinkBatch::start(std::uint16_t type, std::uint16_t flags, std::size_t bodySize, std::string what) {
  if (!nests_.empty()) std::abort();
  require(MNL_NLMSG_HDRLEN + bodySize);
  begun_ = used();
  message_ = mnl_nlmsg_put_header(buffer_.data() + begun_);
  message_->nlmsg_type = type;
  message_->nlmsg_flags = static_cast<std::uint16_t>(flags | NLM_F_REQUEST | NLM_F_ACK);
  names_.push_back(std::move(what));
  return mnl_nlmsg_put_extra_header(message_, bodySize);
}

void* NetlinkBatch::extra(std::size_t size) {
  require(size);
  return mnl_nlmsg_put_extra_header(message_, size);
}

void NetlinkBatch::put(std::uint16_t attribute, const void* data, std::size_t size) {
  require(size);
  mnl_attr_put(message_, attribute, size, data);
}

void NetlinkBatch::openNest(std::uint16_t attribute) {
  require(0);
  nests_.push_back(mnl_attr_nest_start(message_, attribute));
}

void NetlinkBatch::closeNest() {
  mnl_attr_nest_end(message_, nests_.back());
  nests_.pop_back();
}

Result<Netlink> Netlink::open() {
  Netlink netlink(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC));
  if (!netlink.socket_) return sysError("open rtnetlink socket");
  if (mnl_socket_bind(netlink.socket_.get(), 0, MNL_SOCKET_AUTOPID) < 0) return sysError("bind rtnetlink socket");
  int on = 1;
  int fd = mnl_socket_get_fd(netlink.socket_.get());
  // Both only better the error text; kernels before 4.12 lack the second.
  (void)mnl_socket_setsockopt(netlink.socket_.get(), NETLINK_CAP_ACK, &on, sizeof(on));
  (void)mnl_socket_setsockopt(netlink.socket_.get(), NETLINK_EXT_ACK, &on, sizeof(on));
  // Answers are there when send returns; the time limit only keeps a lost one from blocking for ever.
  timeval limit{.tv_sec = 5, .tv_usec = 0};
  if (::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0) return sysError("set rtnetlink time limit");
  return netlink;
}

Status Netlink::run(NetlinkBatch& batch) {
  if (batch.names_.empty()) return {};
  std::uint32_t first = sequence_;
  std::size_t size = batch.used();
  for (std::size_t at = 0; at < size;) {
    auto* header = reinterpret_cast<nlmsghdr*>(batch.buffer_.data() + at);
    header->nlmsg_seq = sequence_++;
    at += MNL_ALIGN(header->nlmsg_len);
  }
  const std::string& all = batch.names_.front();
  if (mnl_socket_sendto(socket_.get(), batch.buffer_.data(), size) < 0) return sysError(all + ": send to rtnetlink");
  return receive(first, batch.names_, all);
}

Status Netlink::receive(std::uint32_t first, const std::vector<std::string>& names, const std::string& all) {
  alignas(nlmsghdr) std::array<char, 16384> buffer;
  Status result;
  std::size_t left = names.size();
  while (left > 0) {
    ssize_t received = mnl_socket_recvfrom(socket_.get(), buffer.data(), buffer.size());
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return sysError(all + ": answer of rtnetlink");
    int size = static_cast<int>(received);
    for (const auto* header = reinterpret_cast<const nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(header, size);
         header = mnl_nlmsg_next(header, &size)) {
      std::uint32_t index = header->nlmsg_seq - first;
      if (index >= names.size()) continue;  // of an earlier batch that was given up
      if (header->nlmsg_type == RTM_NEWLINK)
        foundIndex_ = static_cast<unsigned>(static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(header))->ifi_index);
      if (header->nlmsg_type != NLMSG_ERROR) continue;
      --left;
      int error = -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(header))->error;
      if (error == 0 || !result) continue;
      std::string text = extendedText(header);
      result = sysError(text.empty() ? names[index] : names[index] + " (" + text + ")", error);
    }
  }
  return result;
}

Result<unsigned> Netlink::linkIndex(const std::string& name) {
  NetlinkBatch batch;
  batch.begin<ifinfomsg>(RTM_GETLINK, 0, "find link " + name).ifi_family = AF_UNSPEC;
  batch.putText(IFLA_IFNAME, name);
  foundIndex_ = 0;
  USERPOD_CHECK(run(batch));
  return foundIndex_;
}

Status Netlink::dumpLinks(const std::function<void(const nlmsghdr&)>& each) {
  const std::string what = "list links";
  alignas(nlmsghdr) std::array<char, 32768> buffer;  // what the kernel fills at most
  auto* request = mnl_nlmsg_put_header(buffer.data());
  request->nlmsg_type = RTM_GETLINK;
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request->nlmsg_seq = sequence_++;
  const std::uint32_t sequence = request->nlmsg_seq;
  static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg)))->ifi_family = AF_UNSPEC;
  if (mnl_socket_sendto(socket_.get(), request, request->nlmsg_len) < 0) return sysError(what + ": send to rtnetlink");
  for (;;) {
    ssize_t received = mnl_socket_recvfrom(socket_.get(), buffer.data(), buffer.size());
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return sysError(what + ": answer of rtnetlink");
    int size = static_cast<int>(received);
    for (const auto* header = reinterpret_cast<const nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(header, size);
         header = mnl_nlmsg_next(header, &size)) {
      if (header->nlmsg_seq != sequence) continue;
      if (header->nlmsg_type == NLMSG_DONE) return {};
      if (header->nlmsg_type == NLMSG_ERROR)
        return sysError(what, -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(header))->error);
      if (header->nlmsg_type == RTM_NEWLINK) each(*header);
    }
  }
}

}  // namespace userpod
