#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "daemon/images/reference.hpp"
#include "daemon/images/unpack/layer_stream.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using Json = nlohmann::json;

std::string textFrom(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The library says by exceptions what does not fit; they end here.
template <typename Value, typename Read>
Result<Value> readJson(std::string_view text, const char* what, Read&& read) {
  try {
    return read(Json::parse(text));
  } catch (const Json::exception& problem) {
    return Error(Code::Internal, fmt::format("{} is damaged: \"{}\" ({})", what, excerpt(text), problem.what()));
  }
}

}  // namespace

std::string orderText(const UnpackOrder& order) {
  return textFrom({{"blob", order.blob},
                   {"diffId", order.diffId},
                   {"file", order.file},
                   {"bytes", order.limits.bytes},
                   {"entries", order.limits.entries},
                   {"ratio", order.limits.ratio},
                   {"ignoreChownErrors", order.options.ignoreChownErrors},
                   {"place", order.options.place}});
}

Result<UnpackOrder> parseOrder(std::string_view text) {
  return readJson<UnpackOrder>(text, "the order to unpack", [](const Json& json) {
    return UnpackOrder{.blob = json.at("blob"),
                       .diffId = json.at("diffId"),
                       .file = json.at("file"),
                       .limits = {json.at("bytes"), json.at("entries"), json.at("ratio")},
                       .options = {json.at("ignoreChownErrors"), json.at("place")}};
  });
}

std::string outcomeText(const Result<Unpacked>& outcome) {
  if (!outcome) {
    const Error& error = outcome.error();
    return textFrom({{"code", static_cast<int>(error.code())},
                     {"errno", error.sysErrno()},
                     {"text", error.text().substr(0, 8192)}});
  }
  return textFrom({{"bytes", outcome->extracted.bytes},
                   {"inodes", outcome->extracted.inodes},
                   {"squashed", outcome->extracted.squashed},
                   {"diffId", outcome->diffId}});
}

Result<Unpacked> parseOutcome(std::string_view text) {
  std::optional<Error> failure;
  auto outcome = readJson<Unpacked>(text, "the outcome of unpacking", [&](const Json& json) {
    if (json.contains("code")) {
      int code = json.at("code");
      bool known = code >= 0 && code <= static_cast<int>(Code::SandboxedCaller);
      failure = Error(known ? static_cast<Code>(code) : Code::Internal, json.at("text"), json.at("errno").get<int>());
      return Unpacked{};
    }
    return Unpacked{{json.at("bytes"), json.at("inodes"), json.at("squashed")}, json.at("diffId")};
  });
  if (outcome && failure) return *std::move(failure);
  if (!outcome) return outcome;
  const auto& [extracted, diffId] = *outcome;
  bool sane = extracted.bytes >= 0 && extracted.inodes >= 0 && extracted.squashed >= 0 &&
              (diffId.empty() || isSha256Digest(diffId));
  if (!sane) return Error(Code::Internal, "the process that unpacks says what cannot be");
  return outcome;
}

}  // namespace userpod::images
