// Messages between the daemon and userpod-pull: a JSON object, a text of any bytes beside it, and at most one
// descriptor, over a stream socket.
#pragma once

#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/sys/error.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::images {

struct Message {
  std::string head;  // JSON
  std::string body;
  UniqueFd fd;
};

// send() from any thread, receive() from one. A message is at most 32 MB; what is longer, or cut short, is an error of
// the other side (Internal).
class Channel {
 public:
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}

  Status send(const nlohmann::json& head, std::string_view body = {}, int fd = -1);
  // Blocks. nullopt: the other side has closed.
  Result<std::optional<Message>> receive();
  int fd() const { return socket_.get(); }  // readable when there is something to receive

 private:
  UniqueFd socket_;
  std::mutex sending_;
};

}  // namespace userpod::images
