// Settings as text: for people, for scripts, and for the next reader of userpod.toml.
#include <fmt/core.h>

#include "daemon/sys/util.hpp"
#include "policy/settings_keys.hpp"

namespace userpod {
namespace {

constexpr std::size_t kWidth = 100;

// JSON's escapes are TOML's, and a control character that JSON lets be no setting has.
std::string tomlText(const nlohmann::json& value) {
  if (!value.is_array()) return value.dump();
  std::string text;
  for (const auto& item : value) text += (text.empty() ? "" : ", ") + item.dump();
  return "[" + text + "]";
}

std::string runtimesText(const nlohmann::json& value) {
  std::string text;
  for (const auto& [name, handler] : value.items())
    text += fmt::format("[runtimes.\"{}\"]\npath = {}\n", name, handler["path"].dump());
  return text;
}

std::string shortText(const Key& key, const Settings& settings) {
  auto value = key.value(settings);
  return value.is_object() ? value.dump() : tomlText(value);
}

std::string comment(const std::string& paragraph) {
  std::string text, line = "#";
  for (const auto& word : split(paragraph, ' ')) {
    if (line.size() + 1 + word.size() > kWidth && line.size() > 1) {
      text += line + "\n";
      line = "#";
    }
    line += " " + word;
  }
  return text + line + "\n";
}

std::string_view whenText(Applies applies) {
  switch (applies) {
    case Applies::Reload:
      return "A change counts with `systemctl --user reload userpod.service`.";
    case Applies::Daemon:
      return "A change counts when userpod.service starts.";
    case Applies::Node:
      return "A change counts when userpod-node.service starts, which ends all containers.";
  }
  return {};
}

std::string_view whenWord(Applies applies) {
  return applies == Applies::Reload ? "reload" : applies == Applies::Daemon ? "daemon" : "node";
}

}  // namespace

std::string printConfiguration(const Configuration& configuration, const std::string& directory) {
  const Settings standard = defaultSettings(directory);
  std::string text = "# All settings of userpod, as they are in force with the next start: see userpod.toml(5).\n";
  for (const auto& file : configuration.files) text += fmt::format("# Read: {}\n", file);
  for (const auto& key : keys()) {
    text += "\n" + comment(key.documentation);
    text += comment(fmt::format("Type: {}. {}", key.type, whenText(key.applies)));
    text += fmt::format("# Default: {}\n", shortText(key, standard));
    if (auto origin = configuration.origins.find(key.name); origin != configuration.origins.end())
      text += fmt::format("# Set by {}:{}\n", origin->second.file, origin->second.line);
    auto value = key.value(configuration.settings);
    text += value.is_object() ? runtimesText(value) : fmt::format("{} = {}\n", key.name, tomlText(value));
  }
  return text;
}

std::string printConfigurationJson(const Configuration& configuration, const std::string& directory) {
  const Settings standard = defaultSettings(directory);
  auto all = nlohmann::ordered_json::object();
  for (const auto& key : keys()) {
    auto& entry = all[key.name];
    entry["value"] = key.value(configuration.settings);
    entry["default"] = key.value(standard);
    entry["applies"] = whenWord(key.applies);
    auto origin = configuration.origins.find(key.name);
    if (origin == configuration.origins.end()) continue;
    entry["file"] = origin->second.file;
    entry["line"] = origin->second.line;
  }
  return all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string printProblemsJson(const std::vector<Problem>& problems) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& problem : problems) {
    nlohmann::ordered_json entry;
    entry["weight"] = problem.weight == Problem::Weight::Error ? "error" : "warning";
    entry["file"] = problem.file;
    entry["line"] = problem.line;
    entry["column"] = problem.column;
    entry["key"] = problem.key;
    entry["what"] = problem.what;
    entry["mend"] = problem.mend;
    list.push_back(std::move(entry));
  }
  return list.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::vector<KeyInfo> settingKeys(const std::string& directory) {
  const Settings standard = defaultSettings(directory);
  std::vector<KeyInfo> list;
  for (const auto& key : keys())
    list.push_back({key.name, key.type, key.documentation, shortText(key, standard), key.applies});
  return list;
}

std::vector<Changed> changesBetween(const Settings& before, const Settings& now) {
  std::vector<Changed> list;
  for (const auto& key : keys())
    if (key.value(before) != key.value(now))
      list.push_back({key.name, shortText(key, before), shortText(key, now), key.applies});
  return list;
}

Settings takeOver(const Settings& before, const Settings& now) {
  Settings merged = before;
  for (const auto& key : keys())
    if (key.applies == Applies::Reload) key.copy(now, merged);
  return merged;
}

std::string_view commandFor(Applies applies) {
  switch (applies) {
    case Applies::Reload:
      return "systemctl --user reload userpod.service";
    case Applies::Daemon:
      return "systemctl --user restart userpod.service";
    case Applies::Node:
      return "systemctl --user restart userpod-node.service userpod.service";
  }
  return {};
}

}  // namespace userpod
