#include "daemon/oci/messages.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::size_t kMessageLimit = 4096;

// A program's name in a message has the bytes of its file name, and JSON with other bytes than UTF-8 is none.
std::string cleanUtf8(std::string_view text) {
  std::string clean(text);
  if (!isUtf8(clean)) std::replace_if(clean.begin(), clean.end(), [](char c) { return (c & 0x80) != 0; }, '?');
  return clean;
}

bool isTimestamp(std::string_view word) {
  return word.size() >= 20 && word[4] == '-' && word[10] == 'T' && (word.back() == ':' || word.back() == 'Z');
}

// The text of `time="..." level=error msg="..."`, as runc writes it: quoted as in Go, which for a message is JSON.
std::optional<std::string> quotedMessage(std::string_view line) {
  constexpr std::string_view kKey = " msg=\"";
  auto begin = line.find(kKey);
  if (!line.starts_with("time=") || begin == std::string_view::npos) return std::nullopt;
  auto json = nlohmann::json::parse(cleanUtf8(line.substr(begin + kKey.size() - 1)), nullptr, false);
  if (!json.is_string()) return std::nullopt;
  return json.get<std::string>();
}

// What runc only remarks, before what it fails at.
bool isRemark(std::string_view line) {
  return line.starts_with("time=") && line.find(" level=error ") == std::string_view::npos &&
         line.find(" level=fatal ") == std::string_view::npos;
}

// One line of a log: crun writes "2026-01-01T00:00:00.000000Z: text" or JSON with msg, runc level=error msg="text".
std::string plainLine(std::string_view line) {
  line = trim(line);
  if (line.starts_with("{")) {
    auto json = nlohmann::json::parse(cleanUtf8(line), nullptr, false);
    if (json.is_object() && json.contains("msg") && json["msg"].is_string()) return json["msg"];
  }
  if (auto quoted = quotedMessage(line)) return *quoted;
  auto space = line.find(' ');
  if (space != std::string_view::npos && isTimestamp(line.substr(0, space))) line = trim(line.substr(space));
  if (line.starts_with("[conmon:")) {
    auto end = line.find("]: ");
    if (end != std::string_view::npos) line.remove_prefix(end + 3);
  }
  for (std::string_view prefix : {"error: ", "crun: ", "runc: "})
    if (line.starts_with(prefix)) line.remove_prefix(prefix.size());
  return std::string(line);
}

}  // namespace

std::string plainMessage(std::string_view text) {
  std::string result;
  auto lines = split(text, '\n');
  bool onlyRemarks =
      std::all_of(lines.begin(), lines.end(), [](const auto& line) { return line.empty() || isRemark(line); });
  for (const auto& line : lines) {
    if (isRemark(line) && !onlyRemarks) continue;
    std::string plain = plainLine(line);
    if (plain.empty()) continue;
    result += (result.empty() ? "" : "; ") + plain;
  }
  std::replace_if(
      result.begin(), result.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  if (result.size() > kMessageLimit) result.resize(kMessageLimit);
  return cleanUtf8(result);
}

std::optional<MonitorAnswer> parseMonitorAnswer(std::string_view text) {
  auto json = nlohmann::json::parse(cleanUtf8(text), nullptr, false);
  if (!json.is_object() || !json.contains("data") || !json["data"].is_number_integer()) return std::nullopt;
  auto number = json["data"].get<std::int64_t>();
  MonitorAnswer answer;
  if (number > 0 && number <= std::numeric_limits<pid_t>::max()) answer.pid = static_cast<pid_t>(number);
  if (auto message = json.find("message"); answer.pid == 0 && message != json.end() && message->is_string())
    answer.words = plainMessage(message->get_ref<const std::string&>());
  return answer;
}

std::optional<std::int32_t> parseNumber(std::string_view text) {
  text = trim(text);
  std::int32_t number = 0;
  auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace userpod::oci
