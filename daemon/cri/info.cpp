#include "daemon/cri/info.hpp"

namespace userpod::cri {

nlohmann::json parseForInfo(const std::string& text) {
  constexpr int kDepth = 64;
  auto shallow = [](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) { return depth <= kDepth; };
  auto parsed = nlohmann::json::parse(text, shallow, false);
  return parsed.is_discarded() ? nlohmann::json() : parsed;
}

std::string printInfo(const nlohmann::json& info) {
  return info.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace userpod::cri
