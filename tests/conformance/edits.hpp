// Edits of a ContainerConfig that tests of its fields share, and what they look at.
#pragma once

#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {

using Config = v1::ContainerConfig;
using Edit = std::function<void(Config&)>;

inline Edit ofImage(const std::string& name) {
  return [name](Config& c) { c.mutable_image()->set_image(image(name)); };
}
inline Edit args(const std::vector<std::string>& words) {
  return [words](Config& c) { c.mutable_args()->Assign(words.begin(), words.end()); };
}
// Nothing: what the image says.
inline void noCommand(Config& c) {
  c.clear_command();
  c.clear_args();
}
inline Edit variable(const std::string& name, const std::string& value) {
  return [=](Config& c) {
    auto* added = c.add_envs();
    added->set_key(name);
    added->set_value(value);
  };
}
inline Edit user(std::int64_t uid) {
  return [uid](Config& c) { securityOf(c)->mutable_run_as_user()->set_value(uid); };
}
inline Edit group(std::int64_t gid) {
  return [gid](Config& c) { securityOf(c)->mutable_run_as_group()->set_value(gid); };
}
inline void privileged(Config& c) {
  securityOf(c)->set_privileged(true);
}
inline void privilegedPod(v1::PodSandboxConfig& c) {
  c.mutable_linux()->mutable_security_context()->set_privileged(true);
}
// A mount of a host path.
inline Edit mount(
    const std::string& source, const std::string& target,
    const std::function<void(v1::Mount&)>& edit = [](v1::Mount&) {}) {
  return [=](Config& c) {
    auto* added = c.add_mounts();
    added->set_host_path(source);
    added->set_container_path(target);
    edit(*added);
  };
}
inline void readOnly(v1::Mount& m) {
  m.set_readonly(true);
}

// The call must fail so, and no container may be left of it.
template <typename... Edits>
void expectRefused(const Pod& pod, const Codes& codes, const std::string& pattern, Edits&&... edits) {
  auto config = containerConfig(pod, std::forward<Edits>(edits)...);
  expectFailure(createRequest(pod, config), codes, pattern);
  auto listed =
      call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_pod_sandbox_id(pod.id()); }));
  for (const auto& left : listed.containers())
    EXPECT_NE(left.metadata().name(), config.metadata().name()) << "a refused container is in the list";
}

// The words of a text, in any order.
inline std::multiset<std::string> wordsOf(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), std::istream_iterator<std::string>()};
}

// A line of /proc/self/status, as the container's processes have it: field(container, "CapEff").
inline std::string statusField(const std::string& status, const std::string& name) {
  std::istringstream lines(status);
  for (std::string line; std::getline(lines, line);)
    if (line.rfind(name + ":", 0) == 0) {
      auto begin = line.find_first_not_of(" \t", name.size() + 1);
      return begin == std::string::npos ? "" : line.substr(begin, line.find_last_not_of(" \t") + 1 - begin);
    }
  return "no " + name;
}

}  // namespace userpod::conformance
