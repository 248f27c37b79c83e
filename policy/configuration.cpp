#include "policy/configuration.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"
#include "policy/settings_keys.hpp"

namespace userpod {
namespace {

constexpr std::size_t kLargestFile = 1 << 20;

Problem fileProblem(const std::string& file, std::string what, std::string mend) {
  return {.file = file, .what = std::move(what), .mend = std::move(mend)};
}

// Of a file that somebody writes by hand anything may be wrong: nothing here waits for a pipe or takes a device's
// bytes.
std::optional<std::string> readText(const std::string& path, std::vector<Problem>& problems) {
  auto wrong = [&](std::string what, std::string mend) {
    problems.push_back(fileProblem(path, std::move(what), std::move(mend)));
    return std::nullopt;
  };
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info{};
  if (!file && errno == ENOENT && ::lstat(path.c_str(), &info) < 0) return std::nullopt;  // none
  if (!file && errno == ENOENT) return wrong("is a link to a file that does not exist", "mend the link, or remove it");
  if (!file)
    return wrong(fmt::format("cannot be read ({})", sysError("open").text()),
                 "make it readable for this user, or remove it");
  if (::fstat(file.get(), &info) < 0 || !S_ISREG(info.st_mode))
    return wrong("is not a file", "move it away, or put a file there");
  auto content = readAll(file.get(), kLargestFile + 1);
  if (!content) return wrong(fmt::format("cannot be read ({})", content.error().text()), "look at the disk");
  if (content->size() > kLargestFile)
    return wrong(fmt::format("is larger than {} bytes", kLargestFile),
                 "it cannot be meant: remove what is not settings");
  return std::move(*content);
}

// The first line whose bytes are no text; 0: all are.
unsigned firstBadLine(std::string_view content) {
  unsigned line = 1;
  for (std::size_t start = 0; start <= content.size(); ++line) {
    auto end = std::min(content.find('\n', start), content.size());
    if (!isUtf8(content.substr(start, end - start))) return line;
    start = end + 1;
  }
  return 0;
}

// "cannot redefine existing integer 'pids-limit' as integer": the key. toml++ names it so.
std::string redefined(std::string_view description) {
  auto at = description.find("cannot redefine existing ");
  if (at == std::string_view::npos) return {};
  auto open = description.find('\'', at);
  auto close = open == std::string_view::npos ? open : description.find('\'', open + 1);
  return close == std::string_view::npos ? "" : std::string(description.substr(open + 1, close - open - 1));
}

Problem syntaxProblem(const std::string& file, const toml::parse_error& error) {
  Problem problem{.file = file, .line = error.source().begin.line, .column = error.source().begin.column};
  problem.key = excerpt(redefined(error.description()));
  if (!problem.key.empty()) {
    problem.what = "is there twice";
    problem.mend = "keep one of them";
    return problem;
  }
  problem.what = excerpt(std::string_view(error.description()), 300);
  problem.mend = "write KEY = VALUE, strings in double quotes; see userpod.toml(5)";
  return problem;
}

// Keys that userpod had of its own before it read the containers ecosystem's files.
bool isOfRegistries(std::string_view name) {
  return name == "insecure-registries" || name == "registry-mirrors" || name == "unqualified-search-registries";
}

void unknownKey(const Reading& reading, std::string_view name, const toml::node& node) {
  if (isOfRegistries(name))
    return reading.wrong(node, "is said in registries.conf", "see REGISTRIES in userpod.toml(5)");
  std::vector<std::string> known;
  for (const auto& key : keys()) known.push_back(key.name);
  std::string like = nearest(name, known);
  reading.wrong(
      node, "is not a known key",
      like.empty() ? "see userpod.toml(5), or `userpodd --print-config`" : fmt::format("did you mean {}?", like));
}

void readTable(const std::string& file, const toml::table& table, Configuration& configuration) {
  for (const auto& [name, node] : table) {
    Reading reading(file, excerpt(name.str()), configuration.problems);
    const Key* key = findKey(name.str());
    if (key == nullptr) {
      unknownKey(reading, name.str(), node);
      continue;
    }
    std::size_t before = configuration.problems.size();
    key->read(reading, node, configuration.settings);
    bool wrong = std::any_of(configuration.problems.begin() + static_cast<long>(before), configuration.problems.end(),
                             [](const Problem& problem) { return problem.weight == Problem::Weight::Error; });
    if (!wrong) configuration.origins.insert_or_assign(key->name, KeyOrigin{file, node.source().begin.line});
  }
}

void readOne(const std::string& file, Configuration& configuration) {
  auto content = readText(file, configuration.problems);
  if (!content) return;
  configuration.files.push_back(file);
  if (unsigned line = firstBadLine(*content); line > 0) {
    Problem problem = fileProblem(file, "is not UTF-8", "save it as UTF-8");
    problem.line = line;
    return configuration.problems.push_back(std::move(problem));
  }
  std::size_t before = configuration.problems.size();
  try {
    readTable(file, toml::parse(*content, file), configuration);
  } catch (const toml::parse_error& error) {
    configuration.problems.push_back(syntaxProblem(file, error));
  }
  // Tables are in the order of their keys' names, people read in that of lines.
  std::stable_sort(configuration.problems.begin() + static_cast<long>(before), configuration.problems.end(),
                   [](const Problem& a, const Problem& b) { return a.line < b.line; });
}

std::vector<std::string> dropIns(const std::string& directory, std::vector<Problem>& problems) {
  std::vector<std::string> files;
  std::error_code failure;
  std::filesystem::directory_iterator entries(directory, failure);
  if (failure == std::errc::no_such_file_or_directory) return files;
  for (; !failure && entries != std::filesystem::directory_iterator(); entries.increment(failure)) {
    std::string name = entries->path().filename();
    if (name.starts_with(".") || name.ends_with("~")) continue;  // an editor's
    if (name.ends_with(".toml")) {
      files.push_back(entries->path());
      continue;
    }
    Problem problem =
        fileProblem(entries->path(), "is not read: its name does not end in .toml", "rename it, or move it away");
    problem.weight = Problem::Weight::Warning;
    problems.push_back(std::move(problem));
  }
  if (failure)
    problems.push_back(fileProblem(directory, fmt::format("is no directory to be read ({})", failure.message()),
                                   "make it a readable directory, or remove it"));
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

void Reading::add(Problem::Weight weight, const toml::node& at, std::string what, std::string mend) const {
  problems_.push_back({weight, file_, at.source().begin.line, 0, key_, std::move(what), std::move(mend)});
}

std::string Problem::text() const {
  std::string text = file;
  if (line > 0) text += fmt::format(":{}", line);
  if (column > 0) text += fmt::format(":{}", column);
  text += text.empty() ? "" : ": ";
  if (weight == Weight::Warning) text += "warning: ";
  if (!key.empty()) text += key + ": ";
  text += what;
  if (!mend.empty()) text += "; " + mend;
  return text;
}

bool Configuration::valid() const {
  return std::none_of(problems.begin(), problems.end(),
                      [](const Problem& problem) { return problem.weight == Problem::Weight::Error; });
}

Status Configuration::status() const {
  const Problem* first = nullptr;
  std::size_t more = 0;
  for (const auto& problem : problems) {
    if (problem.weight != Problem::Weight::Error) continue;
    if (first == nullptr)
      first = &problem;
    else
      ++more;
  }
  if (first == nullptr) return {};
  std::string rest = more > 0 ? fmt::format(" (and {} more: `userpodd --check-config` tells all)", more) : "";
  return Error(Code::ConfigInvalid, first->text() + rest);
}

Configuration readConfiguration(const std::string& directory, const std::string& etc) {
  Configuration configuration;
  configuration.settings = defaultSettings(directory);
  for (const auto& place : {etc, directory}) {
    readOne(place + "/userpod.toml", configuration);
    for (const auto& file : dropIns(place + "/userpod.toml.d", configuration.problems)) readOne(file, configuration);
  }
  checkTogether(configuration);
  return configuration;
}

void logProblems(const std::vector<Problem>& problems) {
  for (const auto& problem : problems)
    logMessage(problem.weight == Problem::Weight::Error ? Level::Error : Level::Warning, problem.text(),
               {{"CONFIG_FILE", problem.file},
                {"CONFIG_LINE", std::to_string(problem.line)},
                {"CONFIG_KEY", problem.key},
                {"USERPOD_ERROR", codeName(Code::ConfigInvalid)}});
}

}  // namespace userpod
