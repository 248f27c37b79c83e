#include "daemon/images/transfer/messages.hpp"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using Json = nlohmann::json;

Json json(const Reference& name) {
  return {{"host", name.host}, {"path", name.path}, {"tag", name.tag}, {"digest", name.digest}};
}
Reference toName(const Json& json) {
  return {json.at("host"), json.at("path"), json.at("tag"), json.at("digest")};
}

Json json(const Endpoint& endpoint) {
  return {{"host", endpoint.host},
          {"path", endpoint.path},
          {"insecure", endpoint.insecure},
          {"loopback", endpoint.loopback},
          {"mirror", endpoint.mirror}};
}
Endpoint toEndpoint(const Json& json) {
  return {json.at("host"), json.at("path"), json.at("insecure"), json.at("loopback"), json.at("mirror")};
}

Json json(const Credentials& credentials) {
  return {{"username", credentials.username},
          {"password", credentials.password},
          {"identityToken", credentials.identityToken},
          {"registryToken", credentials.registryToken},
          {"serverAddress", credentials.serverAddress}};
}
Credentials toCredentials(const Json& json) {
  return {json.at("username"), json.at("password"), json.at("identityToken"), json.at("registryToken"),
          json.at("serverAddress")};
}

Json json(const Descriptor& blob) {
  return {{"mediaType", blob.mediaType}, {"digest", blob.digest}, {"size", blob.size}, {"urls", blob.urls}};
}
Descriptor toDescriptor(const Json& json) {
  return {
      .mediaType = json.at("mediaType"), .digest = json.at("digest"), .size = json.at("size"), .urls = json.at("urls")};
}

Json json(const Error& error) {
  return {{"code", static_cast<int>(error.code())}, {"errno", error.sysErrno()}, {"text", error.text()}};
}
Error toError(const Json& json) {
  int code = json.at("code");
  bool known = code >= 0 && code <= static_cast<int>(Code::SandboxedCaller);
  return {known ? static_cast<Code>(code) : Code::Internal, json.at("text"), json.at("errno").get<int>()};
}

Json json(const PullOrder& order) {
  Json candidates = Json::array();
  for (const auto& candidate : order.candidates) {
    Json endpoints = Json::array();
    for (const auto& endpoint : candidate.endpoints) endpoints.push_back(json(endpoint));
    candidates.push_back({{"name", json(candidate.name)}, {"endpoints", std::move(endpoints)}});
  }
  return {
      {"pull", std::move(candidates)}, {"credentials", json(order.credentials)}, {"stallSeconds", order.stallSeconds}};
}
PullOrder toOrder(const Json& json) {
  PullOrder order;
  for (const auto& candidate : json.at("pull")) {
    order.candidates.push_back({toName(candidate.at("name")), {}});
    for (const auto& endpoint : candidate.at("endpoints"))
      order.candidates.back().endpoints.push_back(toEndpoint(endpoint));
  }
  order.credentials = toCredentials(json.at("credentials"));
  order.stallSeconds = json.at("stallSeconds");
  return order;
}

struct Writer {
  Json operator()(const PullOrder& order) const { return json(order); }
  Json operator()(const FetchConfig& fetch) const { return {{"config", json(fetch.descriptor)}}; }
  Json operator()(const FetchBlob& fetch) const { return {{"blob", json(fetch.descriptor)}, {"number", fetch.number}}; }
  Json operator()(const ResolvedName& resolved) const {
    return {{"resolved", json(resolved.name)},
            {"digest", resolved.digest},
            {"manifestDigest", resolved.manifestDigest},
            {"contentType", resolved.contentType}};
  }
  Json operator()(const FetchedConfig&) const { return {{"config", true}}; }
  Json operator()(const Received& received) const { return {{"received", received.blobs}}; }
  Json operator()(const FetchedBlob& blob) const { return {{"fetched", blob.number}}; }
  Json operator()(const FailedBlob& blob) const {
    return {{"failedBlob", blob.number}, {"error", json(blob.error)}, {"readerGone", blob.readerGone}};
  }
  Json operator()(const Failed& failed) const { return {{"failed", json(failed.error)}}; }
};

// The library says by exceptions what does not fit; they end here. The text holds credentials: it is not quoted.
template <typename Value, typename Read>
Result<Value> readMessage(std::string_view text, Read&& read) {
  try {
    return read(Json::parse(text));
  } catch (const Json::exception& problem) {
    return Error(Code::Internal,
                 fmt::format("a message between the halves of a pull is damaged (error {})", problem.id));
  }
}

}  // namespace

Json toJson(const Request& request) {
  return std::visit(Writer(), request);
}
Json toJson(const Answer& answer) {
  return std::visit(Writer(), answer);
}

Result<Request> parseRequest(std::string_view text) {
  return readMessage<Request>(text, [](const Json& json) -> Request {
    if (json.contains("pull")) return toOrder(json);
    if (json.contains("config")) return FetchConfig{toDescriptor(json.at("config"))};
    return FetchBlob{json.at("number"), toDescriptor(json.at("blob"))};
  });
}

Result<Answer> parseAnswer(std::string_view text) {
  return readMessage<Answer>(text, [](const Json& json) -> Answer {
    if (json.contains("resolved"))
      return ResolvedName{toName(json.at("resolved")), json.at("digest"), json.at("manifestDigest"),
                          json.at("contentType")};
    if (json.contains("config")) return FetchedConfig{};
    if (json.contains("received"))
      return Received{json.at("received").get<std::vector<std::pair<std::size_t, std::uint64_t>>>()};
    if (json.contains("fetched")) return FetchedBlob{json.at("fetched")};
    if (json.contains("failedBlob"))
      return FailedBlob{json.at("failedBlob"), toError(json.at("error")), json.at("readerGone")};
    return Failed{toError(json.at("failed"))};
  });
}

}  // namespace userpod::images
