#include "policy/seccomp.hpp"

#include <sched.h>
#include <sys/personality.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "daemon/sys/fd.hpp"
#include "policy/seccomp_table.hpp"

namespace userpod::policy {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kNamespaceFlags =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
constexpr std::uint64_t kUname26 = 0x0020000;
constexpr std::size_t kProfileLimit = 1 << 20;

std::set<std::string> words(const char* text) {
  std::istringstream stream{text};
  return {std::istream_iterator<std::string>(stream), {}};
}

Json rule(Json names, const char* action) {
  return {{"names", std::move(names)}, {"action", action}};
}

Json errnoRule(Json names, int number) {
  Json result = rule(std::move(names), "SCMP_ACT_ERRNO");
  result["errnoRet"] = number;
  return result;
}

Json condition(unsigned index, std::uint64_t value, const char* comparison, std::uint64_t second = 0) {
  return {{"index", index}, {"value", value}, {"valueTwo", second}, {"op", comparison}};
}

// The architecture of this build first, then those whose programs its kernel runs too.
Json architectures() {
#if defined(__x86_64__)
  return Json::array({"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"});
#elif defined(__aarch64__)
  return Json::array({"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"});
#else
#error "name the seccomp architectures of this processor"
#endif
}

std::set<std::string> allowedCalls() {
  auto calls = words(kAllowedCalls);
#if defined(__x86_64__)
  calls.merge(words(kAllowedX86Calls));
#else
  calls.merge(words(kAllowedArmCalls));
#endif
  return calls;
}

void addConditional(Json& rules, Capabilities capabilities) {
  // Only the harmless personalities: others switch off address randomisation or change what calls mean.
  for (std::uint64_t value : {std::uint64_t{PER_LINUX}, std::uint64_t{PER_LINUX32}, kUname26, kUname26 | PER_LINUX32,
                              std::uint64_t{0xffffffff}}) {
    Json personality = rule(Json::array({"personality"}), "SCMP_ACT_ALLOW");
    personality["args"] = Json::array({condition(0, value, "SCMP_CMP_EQ")});
    rules.push_back(std::move(personality));
  }
  // NETLINK_AUDIT is not namespaced: EINVAL, as if the kernel had no audit, keeps sshd and PAM going.
  if (capabilities.has("AUDIT_WRITE")) {
    rules.push_back(rule(Json::array({"socket"}), "SCMP_ACT_ALLOW"));
  } else {
    Json audit = errnoRule(Json::array({"socket"}), EINVAL);
    audit["args"] = Json::array({condition(0, 16, "SCMP_CMP_EQ"), condition(2, 9, "SCMP_CMP_EQ")});
    rules.push_back(std::move(audit));
    for (auto [index, value] : {std::pair{2U, std::uint64_t{9}}, std::pair{0U, std::uint64_t{16}}}) {
      Json other = rule(Json::array({"socket"}), "SCMP_ACT_ALLOW");
      other["args"] = Json::array({condition(index, value, "SCMP_CMP_NE")});
      rules.push_back(std::move(other));
    }
  }
  if (capabilities.has("SYS_ADMIN")) return rules.push_back(rule(Json::array({"clone"}), "SCMP_ACT_ALLOW"));
  // Its flags lie behind a pointer, where no filter sees them: ENOSYS makes libc use clone, which is looked at here.
  rules.push_back(errnoRule(Json::array({"clone3"}), ENOSYS));
  Json clone = rule(Json::array({"clone"}), "SCMP_ACT_ALLOW");
  clone["args"] = Json::array({condition(0, kNamespaceFlags, "SCMP_CMP_MASKED_EQ")});
  rules.push_back(std::move(clone));
  Json refused = errnoRule(Json::array({"clone"}), EPERM);
  for (std::uint64_t bit = 1; bit <= kNamespaceFlags; bit <<= 1) {
    if ((kNamespaceFlags & bit) == 0) continue;
    refused["args"] = Json::array({condition(0, bit, "SCMP_CMP_MASKED_EQ", bit)});
    rules.push_back(refused);
  }
}

bool matches(const Json& filter, Capabilities capabilities, bool any) {
  if (!filter.is_object()) return !any;
  auto list = filter.value("caps", Json::array());
  auto arches = filter.value("arches", Json::array());
#if defined(__x86_64__)
  const std::set<std::string> own = {"amd64", "x32"};
#else
  const std::set<std::string> own = {"arm64", "arm"};
#endif
  bool hasCapability = std::any_of(list.begin(), list.end(), [&](const Json& name) {
    return name.is_string() && capabilities.has(name.get<std::string>());
  });
  bool hasAll = std::all_of(list.begin(), list.end(), [&](const Json& name) {
    return name.is_string() && capabilities.has(name.get<std::string>());
  });
  bool hasArch = std::any_of(arches.begin(), arches.end(), [&](const Json& name) {
    return name.is_string() && own.count(name.get<std::string>()) > 0;
  });
  // includes: all of it must hold; excludes: any of it is enough.
  return any ? hasCapability || hasArch : hasAll && (arches.empty() || hasArch);
}

Json resolveRule(Json entry) {
  for (const char* key : {"includes", "excludes", "comment", "errno", "args_comment"}) entry.erase(key);
  if (entry.contains("name")) {
    entry["names"] = Json::array({entry["name"]});
    entry.erase("name");
  }
  if (entry.contains("args") && !entry["args"].is_array()) entry.erase("args");
  if (entry.contains("errnoRet") && !entry["errnoRet"].is_number()) entry.erase("errnoRet");
  return entry;
}

}  // namespace

Json defaultSeccomp(Capabilities capabilities) {
  auto allowed = allowedCalls();
  auto refused = words(kRefusedCalls);
  for (const auto& group : kCapabilityCalls) {
    auto names = words(group.calls);
    (capabilities.has(group.capability) ? allowed : refused).insert(names.begin(), names.end());
  }
  for (const auto& name : allowed) refused.erase(name);
  if (!capabilities.has("SYS_ADMIN")) refused.erase("clone3");
  Json rules = Json::array({rule(allowed, "SCMP_ACT_ALLOW"), errnoRule(refused, EPERM)});
  addConditional(rules, capabilities);
  return {{"defaultAction", "SCMP_ACT_ERRNO"},
          {"defaultErrnoRet", ENOSYS},
          {"architectures", architectures()},
          {"syscalls", std::move(rules)}};
}

Result<Json> loadSeccomp(const std::string& path, Capabilities capabilities) {
  auto text = readFile(path, kProfileLimit);
  if (!text) return Error(Code::InvalidArgument, "seccomp profile " + text.error().text());
  auto profile = Json::parse(*text, nullptr, false);
  auto wrong = [&](const char* what) { return Error(Code::InvalidArgument, "seccomp profile " + path + " " + what); };
  if (!profile.is_object()) return wrong("is not a JSON object");
  if (!profile.contains("defaultAction") || !profile["defaultAction"].is_string()) return wrong("has no defaultAction");
  Json result = {
      {"defaultAction", profile["defaultAction"]}, {"architectures", architectures()}, {"syscalls", Json::array()}};
  if (profile.contains("defaultErrnoRet") && profile["defaultErrnoRet"].is_number())
    result["defaultErrnoRet"] = profile["defaultErrnoRet"];
  if (profile.contains("architectures") && profile["architectures"].is_array() && !profile["architectures"].empty())
    result["architectures"] = profile["architectures"];
  for (const char* key : {"flags", "listenerPath", "listenerMetadata"})
    if (profile.contains(key) && !profile[key].is_null()) result[key] = profile[key];
  if (!profile.contains("syscalls") || profile["syscalls"].is_null()) return result;
  if (!profile["syscalls"].is_array()) return wrong("has syscalls that are not a list");
  for (const auto& entry : profile["syscalls"]) {
    if (!entry.is_object() || !entry.contains("action") || (!entry.contains("names") && !entry.contains("name")))
      return wrong("has an entry of syscalls without names or action");
    if (entry.contains("includes") && !matches(entry["includes"], capabilities, false)) continue;
    if (entry.contains("excludes") && matches(entry["excludes"], capabilities, true)) continue;
    result["syscalls"].push_back(resolveRule(entry));
  }
  return result;
}

std::vector<std::string> seccompNames() {
  auto names = allowedCalls();
  names.merge(words(kRefusedCalls));
  for (const auto& group : kCapabilityCalls) names.merge(words(group.calls));
  names.merge(words("personality socket clone"));
  return {names.begin(), names.end()};
}

}  // namespace userpod::policy
