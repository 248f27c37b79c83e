// What the daemon and userpod-ports say to each other: one JSON object a message, over a SOCK_SEQPACKET socket. The
// process greets, then each request has its answers, in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/network/ports/ports.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::ports {

inline constexpr int kProtocol = 1;  // another one: the daemon ends the process and starts its own
inline constexpr std::size_t kMessageLimit = 128 << 10;
inline constexpr std::size_t kPortLimit = 1000;  // of a pod: its messages stay below the limit
inline constexpr int kControlDescriptor = 3;     // of the process: the daemon that started it
inline constexpr int kNamespaceDescriptor = 4;   // the same: the node's network namespace

enum class Side { Host, Node };

struct Request {
  enum class Kind { Publish, Withdraw, List };
  Kind kind = Kind::List;
  network::PublishedPod pod;  // of Withdraw only the id
  std::int64_t offset = 0;    // of Publish: added on the host to ports below 1024
};

// A port that somebody else has, for the search for who that is.
struct Taken {
  Side side = Side::Host;
  std::string address;
  std::uint16_t port = 0;
  bool udp = false;
};

struct Answer {
  std::optional<Error> error;
  std::optional<Taken> taken;                 // with an error
  std::vector<network::PublishedPort> ports;  // of List
  bool more = false;                          // of List: another answer follows
};

std::string greeting();
// The protocol that the other side speaks; an error when it is no greeting at all.
Result<int> parseGreeting(std::string_view text);

std::string requestText(const Request& request);
Result<Request> parseRequest(std::string_view text);  // InvalidArgument
std::string answerText(const Answer& answer);
Result<Answer> parseAnswer(std::string_view text);

// One message. Waits as long as the socket's time-outs say (Timeout). An empty text from receive() is the end.
Status sendMessage(int socket, std::string_view text);
Result<std::string> receiveMessage(int socket);

}  // namespace userpod::ports
