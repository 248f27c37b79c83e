#include "daemon/network/ports/messages.hpp"

#include <fmt/core.h>
#include <sys/socket.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "daemon/store/model_json.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::ports {
namespace {

using Json = nlohmann::json;
constexpr std::size_t kIdLimit = 128;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json toJson(const network::PublishedPort& port) {
  return {{"pod", port.podId}, {"mapping", port.mapping}, {"listen", port.listenPort},       {"host", port.host},
          {"node", port.node}, {"note", port.sourceNote}, {"connections", port.connections}, {"total", port.total}};
}

network::PublishedPort toPort(const Json& json) {
  return {.podId = json.at("pod"),
          .mapping = json.at("mapping").get<PortMapping>(),
          .listenPort = json.at("listen"),
          .host = json.at("host").get<std::vector<std::string>>(),
          .node = json.at("node").get<std::vector<std::string>>(),
          .sourceNote = json.at("note"),
          .connections = json.at("connections"),
          .total = json.at("total")};
}

Code codeNamed(const std::string& name) {
#define X(code, grpc, dbus, status) \
  if (name == #code) return Code::code;
  USERPOD_ERROR_TABLE(X)
#undef X
  return Code::Internal;
}

// The library says by exceptions what does not fit; they end here.
template <typename Function>
auto parsed(std::string_view text, const char* what, Function&& function)
    -> Result<std::decay_t<decltype(function(Json()))>> {
  try {
    return function(Json::parse(text));
  } catch (const Json::exception& problem) {
    return Error(Code::InvalidArgument,
                 fmt::format("{} of host ports is damaged: {} ({})", what, excerpt(text), problem.what()));
  }
}

}  // namespace

std::string greeting() {
  return dump({{"userpod-ports", kProtocol}, {"version", USERPOD_VERSION}});
}

Result<int> parseGreeting(std::string_view text) {
  return parsed(text, "a greeting", [](const Json& json) { return json.at("userpod-ports").get<int>(); });
}

std::string requestText(const Request& request) {
  switch (request.kind) {
    case Request::Kind::Publish:
      return dump({{"request", "publish"},
                   {"pod", request.pod.podId},
                   {"addresses", request.pod.addresses},
                   {"ports", request.pod.ports},
                   {"nodeNetwork", request.pod.nodeNetwork},
                   {"offset", request.offset}});
    case Request::Kind::Withdraw:
      return dump({{"request", "withdraw"}, {"pod", request.pod.podId}});
    default:
      return dump({{"request", "list"}});
  }
}

Result<Request> parseRequest(std::string_view text) {
  USERPOD_TRY(request, parsed(text, "a request", [](const Json& json) {
                Request made;
                std::string kind = json.at("request");
                made.kind = kind == "publish"    ? Request::Kind::Publish
                            : kind == "withdraw" ? Request::Kind::Withdraw
                                                 : Request::Kind::List;
                if (made.kind != Request::Kind::List) made.pod.podId = json.at("pod");
                if (made.kind != Request::Kind::Publish) return made;
                made.pod.addresses = json.at("addresses").get<std::vector<std::string>>();
                made.pod.ports = json.at("ports").get<std::vector<PortMapping>>();
                made.pod.nodeNetwork = json.at("nodeNetwork");
                made.offset = json.at("offset");
                return made;
              }));
  if (request.kind != Request::Kind::List && (request.pod.podId.empty() || request.pod.podId.size() > kIdLimit))
    return Error(Code::InvalidArgument, "a pod's id is empty or too long");
  if (request.pod.ports.size() > kPortLimit)
    return Error(Code::InvalidArgument, fmt::format("pod {} asks for {} host ports; {} are possible", request.pod.podId,
                                                    request.pod.ports.size(), kPortLimit));
  return std::move(request);
}

std::string answerText(const Answer& answer) {
  Json json = Json::object();
  if (answer.error)
    json["error"] = {
        {"code", codeName(answer.error->code())}, {"errno", answer.error->sysErrno()}, {"text", answer.error->text()}};
  if (answer.taken)
    json["taken"] = {{"node", answer.taken->side == Side::Node},
                     {"address", answer.taken->address},
                     {"port", answer.taken->port},
                     {"udp", answer.taken->udp}};
  json["ports"] = Json::array();
  for (const auto& port : answer.ports) json["ports"].push_back(toJson(port));
  json["more"] = answer.more;
  return dump(json);
}

Result<Answer> parseAnswer(std::string_view text) {
  return parsed(text, "an answer", [](const Json& json) {
    Answer answer;
    if (json.contains("error")) {
      const auto& error = json.at("error");
      answer.error = Error(codeNamed(error.at("code")), error.at("text"), error.at("errno").get<int>());
    }
    if (json.contains("taken")) {
      const auto& taken = json.at("taken");
      answer.taken = Taken{taken.at("node").get<bool>() ? Side::Node : Side::Host, taken.at("address"),
                           taken.at("port").get<std::uint16_t>(), taken.at("udp").get<bool>()};
    }
    for (const auto& port : json.at("ports")) answer.ports.push_back(toPort(port));
    answer.more = json.at("more");
    return answer;
  });
}

Status sendMessage(int socket, std::string_view text) {
  if (text.size() > kMessageLimit) return Error(Code::InvalidArgument, "a message on host ports is too long");
  ssize_t count = -1;
  do count = ::send(socket, text.data(), text.size(), MSG_NOSIGNAL);
  while (count < 0 && errno == EINTR);
  if (count < 0 && errno == EAGAIN) return Error(Code::Timeout, "a message on host ports is not taken");
  if (count < 0) return sysError("send a message on host ports");
  return {};
}

Result<std::string> receiveMessage(int socket) {
  std::string text(kMessageLimit, '\0');
  ssize_t count = -1;
  do count = ::recv(socket, text.data(), text.size(), MSG_TRUNC);
  while (count < 0 && errno == EINTR);
  if (count < 0 && errno == EAGAIN) return Error(Code::Timeout, "no answer on host ports comes");
  if (count < 0) return sysError("receive a message on host ports");
  if (static_cast<std::size_t>(count) > text.size())
    return Error(Code::InvalidArgument, "a message on host ports is too long");
  text.resize(static_cast<std::size_t>(count));
  return text;
}

}  // namespace userpod::ports
