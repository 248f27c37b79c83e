#include "policy/settings_types.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "daemon/sys/util.hpp"
#include "policy/subnets.hpp"

namespace userpod::types {
namespace {

constexpr std::size_t kLongestText = 4096;
constexpr std::size_t kMostItems = 1024;

std::string_view kindOf(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "a number";
    case toml::node_type::floating_point:
      return "a number with a fraction";
    case toml::node_type::boolean:
      return "true or false";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::table:
      return "a table";
    default:
      return "a date or time";
  }
}

// Strings of settings are names and paths: what a terminal or C would not show whole is a mistake in all of them.
std::optional<std::string> textOf(const Reading& reading, const toml::node& node, std::string_view example) {
  const auto* string = node.as_string();
  if (string == nullptr) {
    reading.wrong(node, fmt::format("is {}, not a string", kindOf(node)), fmt::format("write {}", example));
    return std::nullopt;
  }
  const std::string& text = string->get();
  if (text.size() > kLongestText) {
    reading.wrong(node, fmt::format("has {} bytes", text.size()), fmt::format("write at most {}", kLongestText));
    return std::nullopt;
  }
  auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (std::any_of(text.begin(), text.end(), control)) {
    reading.wrong(node, fmt::format("\"{}\" has a control character in it", excerpt(text)), "take it out");
    return std::nullopt;
  }
  return text;
}

// "what; mend" of an Error, in two.
void wrongBy(const Reading& reading, const toml::node& node, const Error& error) {
  auto cut = error.text().rfind("; ");
  if (cut == std::string::npos) return reading.wrong(node, error.text(), "");
  reading.wrong(node, error.text().substr(0, cut), error.text().substr(cut + 2));
}

bool absolute(const Reading& reading, const toml::node& node, const std::string& path) {
  std::string shown = excerpt(path);
  if (!path.starts_with("/")) {
    std::string_view mend = path.starts_with("~") || path.starts_with("$") ? "; ~ and $VARIABLES are not resolved" : "";
    reading.wrong(node, fmt::format("\"{}\" is not an absolute path{}", shown, mend), "begin it with /");
    return false;
  }
  for (const auto& part : split(path, '/'))
    if (part == "..") {
      reading.wrong(node, fmt::format("\"{}\" has .. in it", shown), "write the path that is meant");
      return false;
    }
  return true;
}

bool goodName(std::string_view text) {
  auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  return !text.empty() && text.size() <= 63 && letter(text.front()) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return letter(c) || c == '-' || c == '_' || c == '.'; });
}

constexpr const char* kNameMend = "use at most 63 letters, digits, '-', '_' and '.', the first a letter or digit";

template <typename T>
Value of(T Settings::* field, std::string type,
         std::function<void(const Reading&, const toml::node&, Settings&)> read) {
  return {std::move(type), std::move(read), [field](const Settings& settings) { return settings.*field; },
          [field](const Settings& from, Settings& to) { to.*field = from.*field; }};
}

// The items of an array of strings; nothing when one is wrong.
std::optional<std::vector<std::string>> textsOf(const Reading& reading, const toml::node& node,
                                                std::string_view example) {
  const auto* array = node.as_array();
  if (array == nullptr) {
    reading.wrong(node, fmt::format("is {}, not an array of strings", kindOf(node)),
                  fmt::format("write [{}]", example));
    return std::nullopt;
  }
  if (array->size() > kMostItems) {
    reading.wrong(node, fmt::format("has {} items", array->size()), fmt::format("write at most {}", kMostItems));
    return std::nullopt;
  }
  std::vector<std::string> texts;
  bool good = true;
  for (const auto& item : *array) {
    auto text = textOf(reading, item, example);
    good = good && text.has_value();
    if (!text) continue;
    if (std::find(texts.begin(), texts.end(), *text) != texts.end())
      reading.warn(item, fmt::format("\"{}\" is there twice", excerpt(*text)), "take one out");
    texts.push_back(std::move(*text));
  }
  if (!good) return std::nullopt;
  return texts;
}

std::optional<FileLimit> parseFileLimit(std::string_view text) {
  FileLimit limit;
  auto colon = text.find(':');
  auto read = [](std::string_view digits, std::uint64_t& value) {
    auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size() && value > 0;
  };
  bool good = colon != std::string_view::npos && read(text.substr(0, colon), limit.soft) &&
              read(text.substr(colon + 1), limit.hard) && limit.soft <= limit.hard;
  if (!good) return std::nullopt;
  return limit;
}

void readRuntime(const Reading& reading, const std::string& name, const toml::node& node, Settings& settings) {
  const auto* table = node.as_table();
  if (table == nullptr)
    return reading.wrong(node, fmt::format("is {}, not a table", kindOf(node)),
                         fmt::format("write [runtimes.{}]", name));
  // userpod's own programs lie beside the handlers', by these names.
  if (!goodName(name) || name.starts_with("userpod"))
    return reading.wrong(node, fmt::format("\"{}\" is no name of a runtime handler", excerpt(name)),
                         std::string(kNameMend) + ", and not userpod's own");
  RuntimeHandler handler;
  bool good = true;
  for (const auto& [key, value] : *table) {
    Reading below = reading.below(excerpt(key.str()));
    if (key.str() != "path") {
      below.wrong(value, "is not a known key", "a runtime has one key, path");
      good = false;
      continue;
    }
    auto path = textOf(below, value, "\"/usr/bin/crun\"");
    good = path && (path->empty() || absolute(below, value, *path));
    if (good) handler.path = std::move(*path);
  }
  if (good) settings.runtimes[name] = std::move(handler);
}

}  // namespace

Value flag(bool Settings::* field) {
  return of(field, "true or false", [field](const Reading& reading, const toml::node& node, Settings& settings) {
    if (!node.is_boolean())
      return reading.wrong(node, fmt::format("is {}, not true or false", kindOf(node)),
                           "write true or false, without quotes");
    settings.*field = *node.value<bool>();
  });
}

Value number(std::int64_t Settings::* field, Range range, std::string unit) {
  std::string allowed = fmt::format("{}from {} to {}", range.orNone ? "0 or " : "", range.least, range.most);
  return of(field, fmt::format("whole number of {}, {}", unit, allowed),
            [=](const Reading& reading, const toml::node& node, Settings& settings) {
              auto value = node.value<std::int64_t>();
              if (!node.is_integer() || !value)
                return reading.wrong(node, fmt::format("is {}, not a whole number", kindOf(node)),
                                     fmt::format("write a number of {} {}, without quotes", unit, allowed));
              bool none = range.orNone && *value == 0;
              if (!none && (*value < range.least || *value > range.most))
                return reading.wrong(node, fmt::format("{} is out of range", *value),
                                     fmt::format("write a number of {} {}", unit, allowed));
              settings.*field = *value;
            });
}

Value choice(std::string Settings::* field, std::vector<std::string> allowed) {
  std::string list;
  for (const auto& word : allowed) list += fmt::format("{}\"{}\"", list.empty() ? "" : ", ", word);
  return of(field, "one of " + list, [=](const Reading& reading, const toml::node& node, Settings& settings) {
    auto text = textOf(reading, node, "one of " + list);
    if (!text) return;
    if (std::find(allowed.begin(), allowed.end(), *text) == allowed.end()) {
      std::string like = nearest(*text, allowed);
      return reading.wrong(node, fmt::format("\"{}\" is not one of {}", excerpt(*text), list),
                           like.empty() ? "write one of them" : fmt::format("did you mean \"{}\"?", like));
    }
    settings.*field = std::move(*text);
  });
}

Value subnet(std::string Settings::* field) {
  return of(field, "IPv4 subnet", [field](const Reading& reading, const toml::node& node, Settings& settings) {
    auto text = textOf(reading, node, "an IPv4 subnet like \"10.88.0.0/16\"");
    if (!text) return;
    auto parsed = Subnet::parse(*text);
    if (!parsed) return wrongBy(reading, node, parsed.error());
    settings.*field = std::move(*text);
  });
}

Value subnet6(std::string Settings::* field) {
  return of(field, "IPv6 subnet, or empty",
            [field](const Reading& reading, const toml::node& node, Settings& settings) {
              auto text = textOf(reading, node, "an IPv6 subnet like \"fd75:7064:88::/64\"");
              if (!text) return;
              // Whether it has room for the pods is seen once `subnet` is known: here the smallest.
              auto parsed = text->empty() ? Result<Subnet6>(Subnet6{}) : Subnet6::parse(*text, {.prefix = 30});
              if (!parsed) return wrongBy(reading, node, parsed.error());
              settings.*field = std::move(*text);
            });
}

Value program(std::string Settings::* field) {
  return of(field, "absolute path, or empty",
            [field](const Reading& reading, const toml::node& node, Settings& settings) {
              auto text = textOf(reading, node, "an absolute path");
              if (text && (text->empty() || absolute(reading, node, *text))) settings.*field = std::move(*text);
            });
}

Value name(std::string Settings::* field, bool orNone) {
  return of(field, orNone ? "name, or empty" : "name",
            [field, orNone](const Reading& reading, const toml::node& node, Settings& settings) {
              auto text = textOf(reading, node, "a name in quotes");
              if (!text) return;
              if (!(orNone && text->empty()) && !goodName(*text))
                return reading.wrong(node, fmt::format("\"{}\" is no name", excerpt(*text)), kNameMend);
              settings.*field = std::move(*text);
            });
}

Value directories(std::vector<std::string> Settings::* field, bool orNone) {
  return of(field, "array of absolute paths",
            [field, orNone](const Reading& reading, const toml::node& node, Settings& settings) {
              auto paths = textsOf(reading, node, "\"/absolute/path\"");
              if (!paths) return;
              if (paths->empty() && !orNone)
                return reading.wrong(node, "names no directory", "name one, or take the key out for the default");
              bool good = true;
              for (const auto& path : *paths) good = absolute(reading, node, path) && good;
              if (good) settings.*field = std::move(*paths);
            });
}

Value imagePatterns(std::vector<std::string> Settings::* field) {
  return of(field, "array of names of images",
            [field](const Reading& reading, const toml::node& node, Settings& settings) {
              auto patterns = textsOf(reading, node, "\"registry.k8s.io/pause:*\"");
              if (!patterns) return;
              bool good = true;
              for (const auto& pattern : *patterns) {
                std::string_view inner = pattern;
                bool ends = inner.ends_with('*');
                if (ends) inner.remove_suffix(1);
                if (ends && inner.starts_with('*')) inner.remove_prefix(1);
                if (!inner.empty() && inner.find_first_of("* \t") == std::string_view::npos) continue;
                good = false;
                reading.wrong(node, fmt::format("\"{}\" names no image", excerpt(pattern)),
                              "write a name, NAME* for those that begin so, or *NAME* for those that contain it");
              }
              if (good) settings.*field = std::move(*patterns);
            });
}

Value fileLimit() {
  return {"\"SOFT:HARD\"",
          [](const Reading& reading, const toml::node& node, Settings& settings) {
            constexpr const char* kMend =
                "write \"SOFT:HARD\", two numbers from 1 up of which the second is not the smaller";
            const auto* string = node.as_string();
            auto limit = string != nullptr ? parseFileLimit(string->get()) : std::nullopt;
            if (!limit)
              return reading.wrong(node,
                                   string != nullptr
                                       ? fmt::format("\"{}\" is no limit of open files", excerpt(string->get()))
                                       : fmt::format("is {}, not a string", kindOf(node)),
                                   kMend);
            settings.nofile = *limit;
            settings.nofileSet = limit->soft != FileLimit{}.soft || limit->hard != FileLimit{}.hard;
          },
          [](const Settings& settings) { return fmt::format("{}:{}", settings.nofile.soft, settings.nofile.hard); },
          [](const Settings& from, Settings& to) {
            to.nofile = from.nofile;
            to.nofileSet = from.nofileSet;
          }};
}

Value runtimes() {
  return {"tables, one for each runtime handler",
          [](const Reading& reading, const toml::node& node, Settings& settings) {
            const auto* table = node.as_table();
            if (table == nullptr)
              return reading.wrong(node, fmt::format("is {}, not a table", kindOf(node)), "write [runtimes.NAME]");
            for (const auto& [key, item] : *table) {
              std::string name(key.str());
              readRuntime(reading.below(excerpt(name)), name, item, settings);
            }
          },
          [](const Settings& settings) {
            auto object = nlohmann::json::object();
            for (const auto& [name, handler] : settings.runtimes) object[name] = {{"path", handler.path}};
            return object;
          },
          [](const Settings& from, Settings& to) { to.runtimes = from.runtimes; }};
}

}  // namespace userpod::types
