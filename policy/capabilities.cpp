#include "policy/capabilities.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>

#include "daemon/sys/fd.hpp"

namespace userpod::policy {
namespace {

// In the order of linux/capability.h.
constexpr std::array<std::string_view, 41> kNames = {"CHOWN",
                                                     "DAC_OVERRIDE",
                                                     "DAC_READ_SEARCH",
                                                     "FOWNER",
                                                     "FSETID",
                                                     "KILL",
                                                     "SETGID",
                                                     "SETUID",
                                                     "SETPCAP",
                                                     "LINUX_IMMUTABLE",
                                                     "NET_BIND_SERVICE",
                                                     "NET_BROADCAST",
                                                     "NET_ADMIN",
                                                     "NET_RAW",
                                                     "IPC_LOCK",
                                                     "IPC_OWNER",
                                                     "SYS_MODULE",
                                                     "SYS_RAWIO",
                                                     "SYS_CHROOT",
                                                     "SYS_PTRACE",
                                                     "SYS_PACCT",
                                                     "SYS_ADMIN",
                                                     "SYS_BOOT",
                                                     "SYS_NICE",
                                                     "SYS_RESOURCE",
                                                     "SYS_TIME",
                                                     "SYS_TTY_CONFIG",
                                                     "MKNOD",
                                                     "LEASE",
                                                     "AUDIT_WRITE",
                                                     "AUDIT_CONTROL",
                                                     "SETFCAP",
                                                     "MAC_OVERRIDE",
                                                     "MAC_ADMIN",
                                                     "SYSLOG",
                                                     "WAKE_ALARM",
                                                     "BLOCK_SUSPEND",
                                                     "AUDIT_READ",
                                                     "PERFMON",
                                                     "BPF",
                                                     "CHECKPOINT_RESTORE"};

std::string upper(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return result;
}

bool isAll(std::string_view word) {
  std::string name = upper(word);
  return name == "ALL" || name == "CAP_ALL";
}

Result<Capabilities> single(const std::vector<std::string>& words, const char* field) {
  Capabilities set;
  for (const auto& word : words) {
    if (isAll(word)) continue;
    auto number = capabilityNumber(word);
    if (!number)
      return Error(Code::InvalidArgument,
                   std::string(field) + ": no capability is named " + word.substr(0, 64) + "; see capabilities(7)");
    set.add(Capabilities(std::uint64_t{1} << *number));
  }
  return set;
}

bool anyAll(const std::vector<std::string>& words) {
  return std::any_of(words.begin(), words.end(), isAll);
}

}  // namespace

bool Capabilities::has(std::string_view name) const {
  auto number = capabilityNumber(name);
  return number && has(*number);
}

std::vector<std::string> Capabilities::names() const {
  std::vector<std::string> list;
  for (std::size_t number = 0; number < kNames.size(); ++number)
    if (has(static_cast<int>(number))) list.push_back("CAP_" + std::string(kNames[number]));
  return list;
}

std::optional<int> capabilityNumber(std::string_view word) {
  std::string name = upper(word);
  if (name.starts_with("CAP_")) name.erase(0, 4);
  auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<int>(found - kNames.begin());
}

Capabilities defaultCapabilities() {
  Capabilities set;
  for (const char* name :
       {"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL"})
    set.add(Capabilities(std::uint64_t{1} << *capabilityNumber(name)));
  return set;
}

Capabilities allCapabilities() {
  static const std::uint64_t bits = [] {
    auto text = readFile("/proc/sys/kernel/cap_last_cap", 16);
    auto last = text ? std::strtoul(text->c_str(), nullptr, 10) : kNames.size() - 1;
    last = std::min<unsigned long>(last, kNames.size() - 1);
    return (std::uint64_t{2} << last) - 1;
  }();
  return Capabilities(bits);
}

Result<CapabilitySets> applyCapabilities(Capabilities base, const std::vector<std::string>& add,
                                         const std::vector<std::string>& drop,
                                         const std::vector<std::string>& addAmbient) {
  CapabilitySets sets;
  sets.bounding = base;
  USERPOD_TRY(added, single(add, "capabilities.add_capabilities"));
  USERPOD_TRY(dropped, single(drop, "capabilities.drop_capabilities"));
  USERPOD_TRY(ambient, single(addAmbient, "capabilities.add_ambient_capabilities"));
  if (anyAll(add)) sets.bounding.add(allCapabilities());
  if (anyAll(drop)) sets.bounding = Capabilities();
  sets.bounding.add(added);
  sets.bounding.drop(dropped);
  // The kernel of an older machine refuses what it does not know.
  auto clip = [](Capabilities set) { return Capabilities(set.bits() & allCapabilities().bits()); };
  sets.ambient = anyAll(addAmbient) ? allCapabilities() : clip(ambient);
  sets.ambient.drop(dropped);
  sets.bounding = clip(sets.bounding);
  sets.bounding.add(sets.ambient);
  return sets;
}

}  // namespace userpod::policy
