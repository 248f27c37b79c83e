#include "daemon/streaming/negotiation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "daemon/sys/util.hpp"

namespace userpod::streaming {
namespace {

constexpr std::array<std::string_view, 4> kSpdyCommand = {"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io",
                                                          "channel.k8s.io"};
constexpr std::array<std::string_view, 1> kSpdyForward = {"portforward.k8s.io"};
constexpr std::array<std::string_view, 5> kSocketCommand = {
    "v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"};
constexpr std::array<std::string_view, 3> kSocketForward = {"SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io",
                                                            "v4.base64.channel.k8s.io"};
constexpr std::string_view kVersionHeader = "X-Stream-Protocol-Version";

template <std::size_t N>
std::optional<std::string> firstOf(const std::vector<std::string>& wanted,
                                   const std::array<std::string_view, N>& spoken) {
  for (const auto& name : wanted)
    if (std::find(spoken.begin(), spoken.end(), name) != spoken.end()) return name;
  return std::nullopt;
}

template <std::size_t N>
Refusal noneOf(const std::vector<std::string>& wanted, const std::array<std::string_view, N>& spoken) {
  Refusal refusal{http::status::forbidden,
                  fmt::format("none of the sub-protocols asked for ({}) is spoken here; these are: {}",
                              excerpt(fmt::format("{}", fmt::join(wanted, ", ")), 300), fmt::join(spoken, ", ")),
                  {}};
  for (auto name : spoken) refusal.headers.push_back(fmt::format("X-Accepted-Stream-Protocol-Versions: {}", name));
  return refusal;
}

template <std::size_t N>
std::variant<Protocol, Refusal> spdy(const Request& request, const std::array<std::string_view, N>& spoken) {
  auto wanted = values(request, kVersionHeader);
  if (wanted.empty())
    return Refusal{http::status::bad_request,
                   fmt::format("the header {} is missing; name one of: {}", kVersionHeader, fmt::join(spoken, ", ")),
                   {}};
  auto chosen = firstOf(wanted, spoken);
  if (!chosen) return noneOf(wanted, spoken);
  Protocol protocol{Transport::Spdy, *chosen};
  protocol.format = chosen->starts_with("v4.") ? StatusFormat::Json : StatusFormat::Text;
  protocol.resizes = chosen->starts_with("v4.") || chosen->starts_with("v3.");
  return protocol;
}

template <std::size_t N>
std::variant<Protocol, Refusal> webSocket(const Request& request, const std::array<std::string_view, N>& spoken) {
  auto wanted = values(request, "Sec-WebSocket-Protocol");
  if (wanted.empty()) return Protocol{Transport::WebSocket};  // as channel.k8s.io
  auto chosen = firstOf(wanted, spoken);
  if (!chosen) return noneOf(wanted, spoken);
  Protocol protocol{Transport::WebSocket, *chosen};
  if (chosen->starts_with("SPDY/")) protocol.transport = Transport::SpdyInWebSocket;
  if (chosen->starts_with("v4.") || chosen->starts_with("v5.")) protocol.format = StatusFormat::Json;
  protocol.base64 = chosen->find("base64.") != std::string::npos;
  protocol.closeSignals = chosen->starts_with("v5.");
  return protocol;
}

}  // namespace

std::variant<Protocol, Refusal> negotiate(const Request& request, const SessionRequest& session) {
  bool forward = std::holds_alternative<PortForward>(session);
  if (upgrades(request, "SPDY/3.1")) return forward ? spdy(request, kSpdyForward) : spdy(request, kSpdyCommand);
  if (!upgrades(request, "websocket"))
    return Refusal{http::status::bad_request,
                   "the request must be upgraded: send \"Connection: Upgrade\" and \"Upgrade: SPDY/3.1\" or \"Upgrade: "
                   "websocket\"",
                   {}};
  if (request.method() != http::verb::get)
    return Refusal{http::status::method_not_allowed, "a WebSocket begins with GET", {"Allow: GET"}};
  auto protocol = forward ? webSocket(request, kSocketForward) : webSocket(request, kSocketCommand);
  auto* chosen = std::get_if<Protocol>(&protocol);
  if (forward && chosen != nullptr && chosen->transport == Transport::WebSocket &&
      std::get<PortForward>(session).ports.empty())
    return Refusal{http::status::bad_request, "forwarding over WebSocket channels needs the ports in the request", {}};
  return protocol;
}

}  // namespace userpod::streaming
