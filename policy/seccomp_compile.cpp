// An OCI seccomp profile as the program for the kernel's filter, by libseccomp.
#include <fmt/core.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "daemon/sys/fd.hpp"
#include "policy/seccomp.hpp"

namespace userpod::policy {
namespace {

using Json = nlohmann::json;
using Context = std::unique_ptr<void, void (*)(scmp_filter_ctx)>;

constexpr std::size_t kProgramLimit = 1 << 20;
constexpr std::size_t kRemembered = 32;  // profiles; one per set of capabilities in use

Error invalid(const std::string& what) {
  return {Code::InvalidArgument, "seccomp profile: " + what};
}

std::string textOf(const Json& holder, const char* key) {
  return holder.contains(key) && holder[key].is_string() ? holder[key].get<std::string>() : "";
}

Result<std::uint32_t> actionOf(const Json& holder, const char* key, const char* number) {
  std::string name = textOf(holder, key);
  auto code = holder.contains(number) && holder[number].is_number_integer() ? holder[number].get<unsigned>() & 0xffff
                                                                            : unsigned{EPERM};
  if (name == "SCMP_ACT_ALLOW") return SCMP_ACT_ALLOW;
  if (name == "SCMP_ACT_ERRNO") return SCMP_ACT_ERRNO(code);
  if (name == "SCMP_ACT_KILL" || name == "SCMP_ACT_KILL_THREAD") return SCMP_ACT_KILL;
  if (name == "SCMP_ACT_KILL_PROCESS") return SCMP_ACT_KILL_PROCESS;
  if (name == "SCMP_ACT_TRAP") return SCMP_ACT_TRAP;
  if (name == "SCMP_ACT_LOG") return SCMP_ACT_LOG;
  if (name == "SCMP_ACT_TRACE") return SCMP_ACT_TRACE(code);
  return invalid("action " + name.substr(0, 64) + " is not supported");
}

Result<scmp_arg_cmp> comparison(const Json& argument) {
  static const std::map<std::string, scmp_compare> kinds = {{"SCMP_CMP_NE", SCMP_CMP_NE},
                                                            {"SCMP_CMP_LT", SCMP_CMP_LT},
                                                            {"SCMP_CMP_LE", SCMP_CMP_LE},
                                                            {"SCMP_CMP_EQ", SCMP_CMP_EQ},
                                                            {"SCMP_CMP_GE", SCMP_CMP_GE},
                                                            {"SCMP_CMP_GT", SCMP_CMP_GT},
                                                            {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ}};
  if (!argument.is_object() || !argument.contains("index") || !argument["index"].is_number_integer() ||
      argument["index"] < 0 || argument["index"] > 5)
    return invalid("an argument has no index from 0 to 5");
  auto kind = kinds.find(textOf(argument, "op"));
  if (kind == kinds.end()) return invalid("an argument has an unknown op");
  auto number = [&](const char* key) -> std::uint64_t {
    return argument.contains(key) && argument[key].is_number() ? argument[key].get<std::uint64_t>() : 0;
  };
  return scmp_arg_cmp{argument["index"].get<unsigned>(), kind->second, number("value"), number("valueTwo")};
}

Status addCalls(scmp_filter_ctx context, const Json& names, std::uint32_t action,
                const std::vector<scmp_arg_cmp>& arguments) {
  for (const auto& name : names) {
    if (!name.is_string()) return invalid("a name is not a string");
    int number = ::seccomp_syscall_resolve_name(name.get_ref<const std::string&>().c_str());
    if (number == __NR_SCMP_ERROR) continue;  // newer than this libseccomp: the default action stands
    int failed =
        ::seccomp_rule_add_array(context, action, number, static_cast<unsigned>(arguments.size()), arguments.data());
    // EDOM: an architecture without this call; EEXIST: said twice.
    if (failed != 0 && failed != -EDOM && failed != -EEXIST)
      return sysError("seccomp profile: rule for " + name.get<std::string>().substr(0, 64), -failed)
          .as(Code::InvalidArgument);
  }
  return {};
}

Status addRule(scmp_filter_ctx context, const Json& rule, std::uint32_t defaultAction) {
  USERPOD_TRY(action, actionOf(rule, "action", "errnoRet"));
  if (action == defaultAction || !rule.contains("names") || !rule["names"].is_array()) return {};
  std::vector<scmp_arg_cmp> arguments;
  std::set<unsigned> indices;
  if (rule.contains("args") && rule["args"].is_array())
    for (const auto& argument : rule["args"]) {
      USERPOD_TRY(compared, comparison(argument));
      arguments.push_back(compared);
      indices.insert(compared.arg);
    }
  if (indices.size() == arguments.size()) return addCalls(context, rule["names"], action, arguments);
  // Several conditions for one argument are alternatives, as runc reads them.
  for (const auto& argument : arguments) USERPOD_CHECK(addCalls(context, rule["names"], action, {argument}));
  return {};
}

Status addArchitectures(scmp_filter_ctx context, const Json& profile) {
  if (!profile.contains("architectures") || !profile["architectures"].is_array()) return {};
  constexpr std::string_view kPrefix = "SCMP_ARCH_";
  for (const auto& entry : profile["architectures"]) {
    std::string name = entry.is_string() ? entry.get<std::string>() : "";
    if (!name.starts_with(kPrefix)) return invalid("architecture " + name.substr(0, 64) + " is unknown");
    name.erase(0, kPrefix.size());
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    auto number = ::seccomp_arch_resolve_name(name.c_str());
    if (number == 0) return invalid("architecture " + name.substr(0, 64) + " is unknown");
    int failed = ::seccomp_arch_add(context, number);
    if (failed != 0 && failed != -EEXIST)
      return sysError("seccomp profile: architecture " + name, -failed).as(Code::InvalidArgument);
  }
  return {};
}

Result<std::string> compile(const Json& profile) {
  USERPOD_TRY(defaultAction, actionOf(profile, "defaultAction", "defaultErrnoRet"));
  Context context(::seccomp_init(defaultAction), &::seccomp_release);
  if (!context) return invalid("the default action is refused by libseccomp");
  USERPOD_CHECK(addArchitectures(context.get(), profile));
  for (const auto& rule : profile["syscalls"]) USERPOD_CHECK(addRule(context.get(), rule, defaultAction));
  // A binary tree: some ten comparisons a call instead of hundreds.
  (void)::seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file) return sysError("make a memory file");
  if (int failed = ::seccomp_export_bpf(context.get(), file.get()); failed != 0)
    return sysError("compile a seccomp profile", -failed);
  if (::lseek(file.get(), 0, SEEK_SET) < 0) return sysError("rewind a memory file");
  return readAll(file.get(), kProgramLimit);
}

}  // namespace

Result<std::string> compileSeccomp(const Json& profile) {
  static std::mutex mutex;
  static std::map<std::string, std::string> known;
  std::string key = profile.dump();
  {
    std::lock_guard lock(mutex);
    if (auto found = known.find(key); found != known.end()) return found->second;
  }
  USERPOD_TRY(program, compile(profile));
  std::lock_guard lock(mutex);
  if (known.size() >= kRemembered) known.clear();
  known.emplace(std::move(key), program);
  return program;
}

}  // namespace userpod::policy
