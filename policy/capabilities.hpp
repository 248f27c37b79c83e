// Linux capabilities: names and numbers, the default set, what a request makes of it. facts: capabilities(7).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::policy {

// A set of capabilities, bit = number in linux/capability.h.
class Capabilities {
 public:
  Capabilities() = default;
  explicit Capabilities(std::uint64_t bits) : bits_(bits) {}

  bool has(int number) const { return (bits_ >> number & 1) != 0; }
  bool has(std::string_view name) const;
  void add(Capabilities other) { bits_ |= other.bits_; }
  void drop(Capabilities other) { bits_ &= ~other.bits_; }
  bool empty() const { return bits_ == 0; }
  std::uint64_t bits() const { return bits_; }
  std::vector<std::string> names() const;  // "CAP_CHOWN", by number
  bool operator==(const Capabilities&) const = default;

 private:
  std::uint64_t bits_ = 0;
};

// "CAP_CHOWN", "CHOWN" or "chown". Nothing for a name that this project does not know.
std::optional<int> capabilityNumber(std::string_view name);
// CRI-O's nine: CHOWN, DAC_OVERRIDE, FSETID, FOWNER, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, KILL.
Capabilities defaultCapabilities();
// Every capability of the running kernel (/proc/sys/kernel/cap_last_cap) that has a name here.
Capabilities allCapabilities();

struct CapabilitySets {
  Capabilities bounding;  // also permitted and effective; inheritable is what is ambient
  Capabilities ambient;
};
// The default set with the request applied: "ALL" first (add, then drop), then single names, drops last. An ambient one
// is added to every set. InvalidArgument names the unknown word.
Result<CapabilitySets> applyCapabilities(Capabilities base, const std::vector<std::string>& add,
                                         const std::vector<std::string>& drop,
                                         const std::vector<std::string>& addAmbient);

}  // namespace userpod::policy
