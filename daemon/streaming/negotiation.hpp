// Which protocol a request is answered with.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "daemon/streaming/http.hpp"
#include "daemon/streaming/status.hpp"
#include "daemon/streaming/tokens.hpp"

namespace userpod::streaming {

enum class Transport { Spdy, WebSocket, SpdyInWebSocket };
struct Protocol {
  Transport transport = Transport::Spdy;
  std::string name;  // of the sub-protocol, as the client wrote it; empty: none
  StatusFormat format = StatusFormat::Text;
  bool resizes = true;
  bool base64 = false;
  bool closeSignals = false;
};
struct Refusal {
  http::status status = http::status::bad_request;
  std::string text;
  std::vector<std::string> headers;
};

std::variant<Protocol, Refusal> negotiate(const Request& request, const SessionRequest& session);

}  // namespace userpod::streaming
