#include "daemon/images/schema1.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "daemon/images/invalid.hpp"
#include "daemon/images/json_document.hpp"
#include "daemon/images/reference.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using nlohmann::json;

constexpr std::size_t kMostHistory = 1000;
constexpr std::size_t kMostSchema1Layers = 500;

// What each layer says of itself, newest first: objects, as many as there are layers.
Result<std::vector<json>> readHistory(const json& object) {
  auto layers = object.find("fsLayers");
  auto history = object.find("history");
  if (layers == object.end() || !layers->is_array() || history == object.end() || !history->is_array() ||
      layers->empty() || layers->size() != history->size())
    return invalidImage("manifest of schema 1: fsLayers and history are not lists of one length");
  if (layers->size() > kMostHistory)
    return invalidImage(fmt::format("manifest of schema 1: {} layers, more than {}", layers->size(), kMostHistory));
  std::vector<json> found;
  for (const auto& entry : *history) {
    if (!entry.is_object()) return invalidImage("manifest of schema 1: an entry of the history is no object");
    USERPOD_TRY(layer, parseObject(textOf(entry, "v1Compatibility"), "manifest of schema 1: v1Compatibility"));
    found.push_back(std::move(layer));
  }
  return found;
}

bool isEmptyLayer(const json& layer) {
  auto found = layer.find("throwaway");
  return found != layer.end() && found->is_boolean() && found->get<bool>();
}

std::optional<std::string> decodeBase64Url(std::string_view text) {
  std::string decoded;
  std::uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '-'             ? 62
                : c == '_'             ? 63
                                       : -1;
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if (++count % 4 != 1) decoded += static_cast<char>(bits >> (2 * (3 - (count - 1) % 4)));
  }
  return decoded;
}

json historyEntry(const json& layer) {
  json entry = json::object();
  for (const auto* key : {"created", "author", "comment"})
    if (auto text = textOf(layer, key); !text.empty()) entry[key] = std::move(text);
  if (auto config = layer.find("container_config"); config != layer.end() && config->is_object()) {
    std::string command;
    if (auto words = listOf(*config, "Cmd"))
      for (const auto& word : *words) command += (command.empty() ? "" : " ") + word;
    if (!command.empty()) entry["created_by"] = std::move(command);
  }
  if (isEmptyLayer(layer)) entry["empty_layer"] = true;
  return entry;
}

}  // namespace

Result<Manifest> parseSchema1(const json& object) {
  USERPOD_TRY(history, readHistory(object));
  Manifest manifest;
  manifest.kind = Manifest::Kind::Schema1;
  const auto& layers = object["fsLayers"];
  for (std::size_t at = layers.size(); at-- > 0;) {
    if (isEmptyLayer(history[at])) continue;
    Descriptor layer{.digest = layers[at].is_object() ? textOf(layers[at], "blobSum") : std::string(), .size = -1};
    if (!isSha256Digest(layer.digest))
      return invalidImage(fmt::format("manifest of schema 1: blobSum \"{}\" is not sha256", excerpt(layer.digest)));
    manifest.layers.push_back(std::move(layer));
  }
  if (manifest.layers.size() > kMostSchema1Layers)
    return invalidImage(fmt::format("{} layers, more than {}", manifest.layers.size(), kMostSchema1Layers));
  return manifest;
}

std::optional<std::string> schema1Payload(std::string_view document) {
  if (document.find("\"signatures\"") == std::string_view::npos) return std::nullopt;
  auto object = parseObject(document, "manifest");
  if (!object || !object->contains("fsLayers")) return std::nullopt;
  auto signatures = object->find("signatures");
  if (signatures == object->end() || !signatures->is_array() || signatures->empty() || !signatures->front().is_object())
    return std::nullopt;
  auto header = decodeBase64Url(textOf(signatures->front(), "protected"));
  if (!header) return std::nullopt;
  auto format = parseObject(*header, "signature");
  if (!format) return std::nullopt;
  auto length = format->find("formatLength");
  auto tail = decodeBase64Url(textOf(*format, "formatTail"));
  if (length == format->end() || !length->is_number_unsigned() || !tail) return std::nullopt;
  auto size = length->get<std::uint64_t>();
  if (size > document.size()) return std::nullopt;
  return std::string(document.substr(0, size)) + *tail;
}

Result<std::string> schema1Config(std::string_view document, const std::vector<std::string>& diffIds) {
  USERPOD_TRY(object, parseObject(document, "manifest"));
  USERPOD_TRY(history, readHistory(object));
  json config = history.front();
  for (const auto* key : {"id", "parent", "parent_id", "layer_id", "Size", "throwaway", "layerId"}) config.erase(key);
  json entries = json::array();
  for (auto layer = history.rbegin(); layer != history.rend(); ++layer) entries.push_back(historyEntry(*layer));
  config["history"] = std::move(entries);
  config["rootfs"] = {{"type", "layers"}, {"diff_ids", diffIds}};
  return config.dump();
}

}  // namespace userpod::images
