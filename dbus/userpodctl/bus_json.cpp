#include <arpa/inet.h>

#include <array>

#include "daemon/sys/util.hpp"
#include "dbus/userpodctl/bus_client.hpp"

namespace userpod::ctl {
namespace {

constexpr int kMaxDepth = 64;  // as deep as D-Bus allows

Result<Json> readValue(sd_bus_message* message, int depth);

Error broken(int failed) {
  return sysError("the daemon's answer cannot be read", -failed);
}

template <typename T>
Result<Json> readNumber(sd_bus_message* message, char type) {
  T value{};
  if (int failed = sd_bus_message_read_basic(message, type, &value); failed < 0) return broken(failed);
  return Json(value);
}

Result<Json> readText(sd_bus_message* message, char type) {
  const char* value = nullptr;
  if (int failed = sd_bus_message_read_basic(message, type, &value); failed < 0) return broken(failed);
  return Json(value);
}

Result<Json> readBasic(sd_bus_message* message, char type) {
  switch (type) {
    case SD_BUS_TYPE_STRING:
    case SD_BUS_TYPE_OBJECT_PATH:
    case SD_BUS_TYPE_SIGNATURE:
      return readText(message, type);
    case SD_BUS_TYPE_BYTE:
      return readNumber<std::uint8_t>(message, type);
    case SD_BUS_TYPE_INT16:
      return readNumber<std::int16_t>(message, type);
    case SD_BUS_TYPE_UINT16:
      return readNumber<std::uint16_t>(message, type);
    case SD_BUS_TYPE_INT32:
      return readNumber<std::int32_t>(message, type);
    case SD_BUS_TYPE_UINT32:
      return readNumber<std::uint32_t>(message, type);
    case SD_BUS_TYPE_INT64:
      return readNumber<std::int64_t>(message, type);
    case SD_BUS_TYPE_UINT64:
      return readNumber<std::uint64_t>(message, type);
    case SD_BUS_TYPE_DOUBLE:
      return readNumber<double>(message, type);
    case SD_BUS_TYPE_BOOLEAN: {
      USERPOD_TRY(number, readNumber<int>(message, type));
      return Json(number.get<int>() != 0);
    }
    default:
      return Error(Code::Internal, std::string("the daemon's answer has a value of type ") + type);
  }
}

// All values up to the end of the container that was entered.
Result<Json> readRest(sd_bus_message* message, int depth) {
  Json list = Json::array();
  for (;;) {
    int atEnd = sd_bus_message_at_end(message, 0);
    if (atEnd < 0) return broken(atEnd);
    if (atEnd > 0) return list;
    USERPOD_TRY(value, readValue(message, depth));
    list.push_back(std::move(value));
  }
}

Json asObject(const Json& entries) {
  Json object = Json::object();
  for (const auto& entry : entries)
    object[entry[0].is_string() ? entry[0].get<std::string>() : entry[0].dump()] = entry[1];
  return object;
}

Result<Json> readValue(sd_bus_message* message, int depth) {
  char type = 0;
  const char* contents = nullptr;
  if (int failed = sd_bus_message_peek_type(message, &type, &contents); failed < 0) return broken(failed);
  if (contents == nullptr) return readBasic(message, type);
  if (depth >= kMaxDepth) return Error(Code::Internal, "the daemon's answer is nested too deeply");
  bool dictionary = type == SD_BUS_TYPE_ARRAY && contents[0] == '{';
  bool variant = type == SD_BUS_TYPE_VARIANT;
  if (int failed = sd_bus_message_enter_container(message, type, contents); failed < 0) return broken(failed);
  USERPOD_TRY(list, readRest(message, depth + 1));
  if (int failed = sd_bus_message_exit_container(message); failed < 0) return broken(failed);
  if (dictionary) return asObject(list);
  if (variant) return list.at(0);
  return list;
}

std::string bytesAsText(const Json& bytes) {
  std::string text;
  for (const auto& byte : bytes) text += static_cast<char>(byte.get<unsigned>());
  // JSON holds nothing else; such an argument is shown, not used.
  if (!isUtf8(text))
    for (char& c : text)
      if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  return text;
}

std::string address(const Json& pair) {
  std::string bytes;
  for (const auto& byte : pair[1]) bytes += static_cast<char>(byte.get<unsigned>());
  std::array<char, INET6_ADDRSTRLEN> text{};
  int family = bytes.size() == 4 ? AF_INET : AF_INET6;
  if (bytes.size() != 4 && bytes.size() != 16) return "";
  return inet_ntop(family, bytes.data(), text.data(), text.size()) != nullptr ? text.data() : "";
}

}  // namespace

Result<Json> messageToJson(sd_bus_message* message) {
  USERPOD_TRY(list, readRest(message, 0));
  if (list.empty()) return Json();
  if (list.size() == 1) return list[0];
  return list;
}

void readable(Json& properties) {
  if (auto found = properties.find("Addresses"); found != properties.end())
    for (auto& pair : *found) pair = address(pair);
  if (auto found = properties.find("Command"); found != properties.end())
    for (auto& word : *found) word = bytesAsText(word);
  if (auto found = properties.find("WorkingDirectory"); found != properties.end()) *found = bytesAsText(*found);
}

std::string text(const Json& properties, const char* name) {
  auto found = properties.find(name);
  if (found == properties.end()) return "";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::uint64_t number(const Json& properties, const char* name) {
  auto found = properties.find(name);
  return found != properties.end() && found->is_number() ? found->get<std::uint64_t>() : 0;
}

std::string firstOf(const Json& properties, const char* name) {
  auto found = properties.find(name);
  return found != properties.end() && found->is_array() && !found->empty() ? (*found)[0].get<std::string>() : "";
}

}  // namespace userpod::ctl
