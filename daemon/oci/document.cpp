#include "daemon/oci/document.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr int kNesting = 32;              // of nested values
constexpr std::size_t kValues = 1 << 17;  // in a document, with aliases as often as they are used

Error invalid(std::string text) {
  return {Code::InvalidArgument, std::move(text)};
}

class YamlReader {
 public:
  Result<Json> read(const YAML::Node& node, int depth) {
    if (++values_ > kValues || depth > kNesting) return invalid("has too many values, or too deep ones");
    if (node.IsScalar()) return Json(node.Scalar());
    if (node.IsSequence()) {
      Json list = Json::array();
      for (const auto& item : node) {
        USERPOD_TRY(value, read(item, depth + 1));
        list.push_back(std::move(value));
      }
      return list;
    }
    if (!node.IsMap()) return Json();
    Json object = Json::object();
    for (const auto& item : node) {
      if (!item.first.IsScalar()) return invalid(fmt::format("line {}: a key is no text", item.first.Mark().line + 1));
      USERPOD_TRY(value, read(item.second, depth + 1));
      object[item.first.Scalar()] = std::move(value);
    }
    return object;
  }

 private:
  std::size_t values_ = 0;
};

}  // namespace

Result<Json> parseDocument(std::string_view text, bool yaml) {
  if (!isUtf8(text)) return invalid("is not UTF-8");
  try {
    if (!yaml) return Json::parse(text);
    return YamlReader().read(YAML::Load(std::string(text)), 0);
  } catch (const Json::exception& error) {
    std::string_view what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    return invalid(excerpt(what.substr(std::min(what.size(), what.find(']') + 2)), 300));
  } catch (const YAML::Exception& error) {
    return invalid(fmt::format("line {}: {}", error.mark.line + 1, excerpt(error.msg, 300)));
  }
}

Result<std::string> readDocument(const std::string& path) {
  USERPOD_TRY(file, openFile(path, O_RDONLY | O_NONBLOCK));
  struct stat info{};
  if (::fstat(file.get(), &info) < 0) return sysError("stat " + path);
  if (!S_ISREG(info.st_mode)) return invalid(path + " is not a regular file");
  auto text = readAll(file.get(), kDocumentLimit);
  if (!text) return std::move(text).error().wrap(path);
  return text;
}

std::vector<std::string> documentDirectories(const std::string& configured) {
  std::vector<std::string> places;
  for (std::string_view parent : {"/etc/", "/run/", "/var/run/"})
    if (configured.starts_with(parent))
      places.push_back(fmt::format("{}.host/{}", parent, configured.substr(parent.size())));
  places.push_back(configured);
  std::vector<std::string> found;
  std::set<std::pair<dev_t, ino_t>> seen;
  for (const auto& place : places) {
    struct stat info{};
    if (::stat(place.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && seen.emplace(info.st_dev, info.st_ino).second)
      found.push_back(place);
  }
  return found;
}

std::vector<std::string> documentsIn(const std::string& directory, const std::vector<std::string>& endings) {
  std::vector<std::string> paths;
  std::error_code error;
  std::filesystem::directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    std::string name = entry->path().filename();
    bool wanted = name.front() != '.' && std::any_of(endings.begin(), endings.end(),
                                                     [&](const auto& ending) { return name.ends_with(ending); });
    if (wanted) paths.push_back(entry->path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

Fields::Fields(const Json& object, std::string place) : object_(object), place_(std::move(place)) {
  if (!object_.is_object()) status_ = invalid((place_.empty() ? "it" : place_) + " is not an object");
}

bool Fields::has(const char* key) const {
  return object_.is_object() && object_.contains(key) && !object_[key].is_null();
}

const Json& Fields::member(const char* key) {
  static const Json kNull;
  known_.insert(key);
  return has(key) ? object_[key] : kNull;
}

std::optional<std::string> Fields::plain(const Json& value) {
  if (!value.is_string()) return std::nullopt;
  const auto& text = value.get_ref<const std::string&>();
  return text.find('\0') == std::string::npos ? std::optional(text) : std::nullopt;
}

std::string Fields::text(const char* key, bool required) {
  const Json& value = member(key);
  auto found = value.is_null() ? std::string() : plain(value);
  if (!found)
    wrong(key, "is not a text without NUL");
  else if (required && found->empty())
    wrong(key, "is missing");
  return found.value_or("");
}

std::vector<std::string> Fields::texts(const char* key) {
  std::vector<std::string> result;
  for (const auto& item : list(key)) {
    auto found = plain(item);
    if (!found) wrong(key, "has what is not a text without NUL");
    result.push_back(found.value_or(""));
  }
  return result;
}

std::optional<std::int64_t> Fields::number(const char* key) {
  const Json& value = member(key);
  if (value.is_null()) return std::nullopt;
  std::int64_t result = 0;
  std::string digits = value.is_number_integer() ? value.dump() : plain(value).value_or("");
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), result);
  if (error == std::errc() && !digits.empty() && end == digits.data() + digits.size()) return result;
  wrong(key, "is not an integer");
  return std::nullopt;
}

std::optional<bool> Fields::flag(const char* key) {
  const Json& value = member(key);
  if (value.is_null()) return std::nullopt;
  if (value == true || value == "true") return true;
  if (value == false || value == "false") return false;
  wrong(key, "is neither true nor false");
  return std::nullopt;
}

const std::vector<Json>& Fields::list(const char* key) {
  static const std::vector<Json> kEmpty;
  const Json& value = member(key);
  if (value.is_array()) return value.get_ref<const Json::array_t&>();
  if (!value.is_null()) wrong(key, "is not a list");
  return kEmpty;
}

const std::map<std::string, Json, std::less<>>& Fields::object(const char* key) {
  static const std::map<std::string, Json, std::less<>> kEmpty;
  const Json& value = member(key);
  if (value.is_object()) return value.get_ref<const Json::object_t&>();
  if (!value.is_null()) wrong(key, "is not an object");
  return kEmpty;
}

std::string Fields::placeOf(std::string_view key) const {
  return place_.empty() ? std::string(key) : fmt::format("{}.{}", place_, key);
}

void Fields::wrong(std::string_view key, std::string_view why) {
  take(invalid(fmt::format("{} {}", placeOf(key), why)));
}

void Fields::take(Status status) {
  if (status_ && !status) status_ = std::move(status);
}

Status Fields::done() {
  if (status_)
    for (const auto& [key, value] : object_.items())
      if (!known_.contains(key)) wrong(excerpt(key, 64), "is not known here; correct it or leave it out");
  return status_;
}

}  // namespace userpod::oci
