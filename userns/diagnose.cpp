#include "userns/diagnose.hpp"

#include <fmt/core.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <charconv>
#include <iterator>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "userns/diagnose_checks.hpp"

namespace userpod {
namespace diagnose {
namespace {

Check make(Check::Severity severity, std::string name, std::string message, std::vector<std::string> hints) {
  return {std::move(name), severity, std::move(message), std::move(hints)};
}

// First line of /proc/self/uid_map: in the node "0 <own uid> 1"; on a host, or as its root, the same id on both sides.
void readOwnMap(Scene& scene) {
  scene.hostUid = ::getuid();
  auto text = kernelText("/proc/self/uid_map");
  unsigned long inside = 0, outside = 0, count = 0;
  if (!text || std::sscanf(text->c_str(), "%lu %lu %lu", &inside, &outside, &count) != 3) return;
  if (::getuid() != 0 || inside != 0 || outside == 0) return;
  scene.inNode = true;
  scene.hostUid = static_cast<uid_t>(outside);
}

std::string nameOf(uid_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  std::vector<char> buffer(16384);
  if (::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr) return entry.pw_name;
  return std::to_string(uid);
}

}  // namespace

Scene sceneOf(const Paths& paths, const Settings& settings) {
  Scene scene{paths, settings};
  readOwnMap(scene);
  scene.user = nameOf(scene.hostUid);
  return scene;
}

Check ok(std::string name, std::string message) {
  return make(Check::Severity::Ok, std::move(name), std::move(message), {});
}
Check info(std::string name, std::string message, std::vector<std::string> hints) {
  return make(Check::Severity::Info, std::move(name), std::move(message), std::move(hints));
}
Check warning(std::string name, std::string message, std::vector<std::string> hints) {
  return make(Check::Severity::Warning, std::move(name), std::move(message), std::move(hints));
}
Check error(std::string name, std::string message, std::vector<std::string> hints) {
  return make(Check::Severity::Error, std::move(name), std::move(message), std::move(hints));
}
Check notFromNode(std::string name) {
  return make(Check::Severity::Ok, std::move(name),
              "not checked: it cannot be seen from the node; run userpodctl doctor", {});
}

std::optional<std::string> kernelText(const std::string& path) {
  auto text = readFile(path, 64 << 10);
  if (!text) return std::nullopt;
  return std::string(trim(*text));
}

std::optional<long long> kernelNumber(const std::string& path) {
  auto text = kernelText(path);
  if (!text) return std::nullopt;
  long long number = 0;
  auto parsed = std::from_chars(text->data(), text->data() + text->size(), number);
  if (parsed.ec != std::errc()) return std::nullopt;
  return number;
}

std::optional<Version> findVersion(std::string_view text) {
  for (std::size_t at = 0; at < text.size(); ++at) {
    bool begins = std::isdigit(static_cast<unsigned char>(text[at])) != 0 &&
                  (at == 0 || std::isspace(static_cast<unsigned char>(text[at - 1])) != 0);
    if (!begins) continue;
    Version version{};
    const char* position = text.data() + at;
    const char* end = text.data() + text.size();
    for (int& part : version) {
      auto parsed = std::from_chars(position, end, part);
      if (parsed.ec != std::errc()) break;
      position = parsed.ptr;
      if (position == end || *position != '.') break;
      ++position;
    }
    return version;
  }
  return std::nullopt;
}

std::string versionText(const Version& version) {
  if (version[2] != 0) return fmt::format("{}.{}.{}", version[0], version[1], version[2]);
  if (version[1] != 0) return fmt::format("{}.{}", version[0], version[1]);
  return std::to_string(version[0]);
}

std::string existingDirectory(std::string path) {
  struct stat found{};
  while (path.size() > 1 && (::stat(path.c_str(), &found) < 0 || !S_ISDIR(found.st_mode))) {
    path.resize(path.rfind('/'));
    if (path.empty()) return "/";
  }
  return path;
}

}  // namespace diagnose

std::vector<Check> diagnoseHost(const Paths& paths, const Settings& settings) {
  using namespace diagnose;
  Scene scene = sceneOf(paths, settings);
  std::vector<Check> all;
  for (auto group : {checkIdentity, checkCgroups, checkSession, checkQuotas, checkStorage, checkPrograms}) {
    auto checks = group(scene);
    all.insert(all.end(), std::make_move_iterator(checks.begin()), std::make_move_iterator(checks.end()));
  }
  return all;
}

const char* severityName(Check::Severity severity) {
  switch (severity) {
    case Check::Severity::Ok:
      return "ok";
    case Check::Severity::Info:
      return "info";
    case Check::Severity::Warning:
      return "warning";
    case Check::Severity::Error:
      break;
  }
  return "error";
}

}  // namespace userpod
