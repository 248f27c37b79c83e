#include "daemon/oci/hook_files.hpp"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <map>

#include "daemon/sys/util.hpp"

namespace userpod::oci {
namespace {

constexpr std::size_t kPatternLimit = 4096;  // bytes
constexpr std::size_t kHookFiles = 1000;     // in all directories

Pattern compile(Fields& fields, const char* key, const std::string& text) {
  if (text.size() > kPatternLimit) {
    fields.wrong(key, fmt::format("has a pattern of more than {} bytes", kPatternLimit));
    return nullptr;
  }
  RE2::Options options;
  options.set_log_errors(false);
  auto pattern = std::make_shared<const RE2>(text, options);
  if (!pattern->ok())
    fields.wrong(key, fmt::format("has the pattern \"{}\": {}", excerpt(text), excerpt(pattern->error())));
  return pattern;
}

void readConditions(const Json& object, HookFile& file, Fields& parent) {
  Fields when(object, "when");
  file.always = when.flag("always");
  file.hasBindMounts = when.flag("hasBindMounts");
  for (const auto& [key, value] : when.object("annotations")) {
    auto text = value.is_string() ? value.get<std::string>() : "";
    if (!value.is_string()) when.wrong("annotations", "has a value that is no pattern");
    auto keyPattern = compile(when, "annotations", key);
    file.annotations.emplace_back(std::move(keyPattern), compile(when, "annotations", text));
  }
  for (const auto& text : when.texts("commands")) file.commands.push_back(compile(when, "commands", text));
  parent.take(when.done());
}

// As the file's name decides, whatever its letters' case.
std::string orderOf(const std::string& path) {
  std::string name = path.substr(path.rfind('/') + 1);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return name;
}

}  // namespace

Result<HookFile> parseHookFile(std::string_view text) {
  USERPOD_TRY(document, parseDocument(text, false));
  Fields fields(document, "");
  HookFile file;
  if (auto version = fields.text("version", true); !version.empty() && version != "1.0.0")
    fields.wrong("version", "is not 1.0.0, the only one that is read");
  Fields hook(fields.member("hook"), "hook");
  file.hook = readHook(hook);
  fields.take(hook.done());
  readConditions(fields.member("when"), file, fields);
  file.stages = fields.texts("stages");
  if (file.stages.empty()) fields.wrong("stages", "is missing or empty");
  for (const auto& stage : file.stages)
    if (std::find(kHookStages.begin(), kHookStages.end(), stage) == kHookStages.end())
      fields.wrong("stages",
                   fmt::format("has \"{}\", which is none of {}", excerpt(stage), fmt::join(kHookStages, ", ")));
  USERPOD_CHECK(fields.done());
  return file;
}

bool matches(const HookFile& file, const HookSubject& subject) {
  if (file.always == false || (file.hasBindMounts && !(*file.hasBindMounts && subject.bindMounts))) return false;
  for (const auto& wanted : file.annotations) {
    bool found = std::any_of(subject.annotations.begin(), subject.annotations.end(), [&](const auto& entry) {
      return RE2::PartialMatch(entry.first, *wanted.first) && RE2::PartialMatch(entry.second, *wanted.second);
    });
    if (!found) return false;
  }
  if (!file.commands.empty())
    return std::any_of(file.commands.begin(), file.commands.end(),
                       [&](const Pattern& pattern) { return RE2::PartialMatch(subject.command, *pattern); });
  return file.always || file.hasBindMounts || !file.annotations.empty();
}

Result<std::vector<HookFile>> readHookFiles(const std::vector<std::string>& directories) {
  std::map<std::string, std::string> paths;  // by name
  for (const auto& configured : directories) {
    auto places = documentDirectories(configured);
    if (places.empty())
      return Error(
          Code::ConfigInvalid,
          fmt::format("hooks-dir: {} is not a directory; make it, or take it out of userpod.toml", configured));
    for (const auto& directory : places)
      for (const auto& path : documentsIn(directory, {".json"})) paths[path.substr(path.rfind('/') + 1)] = path;
  }
  if (paths.size() > kHookFiles)
    return Error(Code::ConfigInvalid, fmt::format("hooks-dir: there are more than {} files; remove some", kHookFiles));
  std::vector<HookFile> files;
  for (const auto& [name, path] : paths) {
    auto text = readDocument(path);
    auto file = text ? parseHookFile(*text) : Result<HookFile>(std::move(text).error());
    if (!file)
      return Error(Code::ConfigInvalid,
                   fmt::format("hook file {}: {}; correct it or take it away", path, file.error().text()));
    file->path = path;
    files.push_back(std::move(*file));
  }
  std::stable_sort(files.begin(), files.end(), [](const HookFile& left, const HookFile& right) {
    return orderOf(left.path) < orderOf(right.path);
  });
  return files;
}

}  // namespace userpod::oci
