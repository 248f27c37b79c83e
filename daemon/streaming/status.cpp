#include "daemon/streaming/status.hpp"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "daemon/sys/util.hpp"

namespace userpod::streaming {
namespace {

using nlohmann::json;

json failure(const std::string& reason, const std::string& message, json details) {
  return {{"metadata", json::object()},
          {"status", "Failure"},
          {"message", message},
          {"reason", reason},
          {"details", std::move(details)}};
}

}  // namespace

std::string statusText(const Result<std::int32_t>& ended, StatusFormat format) {
  if (ended && *ended == 0)
    return format == StatusFormat::Json ? R"({"metadata":{},"status":"Success"})" : std::string();
  std::string words =
      ended ? fmt::format("command terminated with exit code {}", *ended) : excerpt(ended.error().text(), 4096);
  if (format == StatusFormat::Text) return words;
  json status;
  if (ended) {
    json cause = {{"reason", "ExitCode"}, {"message", std::to_string(*ended)}};
    status = failure("NonZeroExitCode", words, {{"causes", json::array({std::move(cause)})}});
  } else {
    status = failure("InternalError", words, {{"causes", json::array({{{"message", words}}})}});
    status["code"] = 500;
  }
  return status.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace userpod::streaming
