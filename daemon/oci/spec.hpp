// The parts of buildSpec, one concern a file. Each adds to the document what it decides.
#pragma once

#include <nlohmann/json.hpp>

#include "daemon/oci/oci.hpp"

namespace userpod::oci {

using Json = nlohmann::json;

struct SpecParts {
  SpecInput& input;
  Json spec = Json::object();
  BuiltSpec built;
  std::size_t volumesBound = 0;  // of input.volumes
};

// A plain directory descriptor of the root file system, for openat2.
Result<UniqueFd> openRootfs(const SpecInput& input);

Result<std::vector<std::string>> buildArgs(const SpecInput& input);  // spec_process.cpp
Result<std::vector<std::string>> buildEnvironment(const SpecInput& input, const std::string& home);
Status addProcess(SpecParts& parts);
struct ResolvedUser {
  EffectiveUser user;
  std::string home = "/";
  bool userKnown = true;  // to the image's passwd and group
  bool groupKnown = true;
};
Result<ResolvedUser> resolveUser(const SpecInput& input);  // spec_user.cpp
Status checkGroupMapped(std::uint32_t gid);
Status addFiles(const SpecInput& input, const ResolvedUser& who);  // spec_files.cpp
Status addMounts(SpecParts& parts);                                // spec_mounts.cpp
// Whether a container may have this path of the node; `named` is the mount in an error.
Status checkSource(const SpecInput& input, const std::string& named, const std::string& source);
std::string cleanPath(const std::string& path);  // "/a//b/./c/" -> "/a/b/c", and ".." stays
void sortMounts(Json& mounts);                   // what lies deeper comes later: no mount hides another
Status addDevices(SpecParts& parts);             // spec_devices.cpp
Status addDevice(SpecParts& parts, const DeviceConfig& device);
Status addHooks(SpecParts& parts);       // spec_hooks.cpp
Status addCdiDevices(SpecParts& parts);  // spec_cdi.cpp
Status addResources(SpecParts& parts);   // spec_resources.cpp
Status addNamespaces(SpecParts& parts);  // spec_namespaces.cpp
Status addSecurity(SpecParts& parts);    // spec_security.cpp
Status addLabels(SpecParts& parts);      // spec_labels.cpp
struct SelinuxLabels {
  std::string process;  // "user:role:type:level"
  std::string file;
};
Result<SelinuxLabels> selinuxLabels(const SelinuxOptions& options, const std::string& podId);

// The number of "SIGTERM", "TERM", "15", "SIGRTMIN+3"; 0 when it is none.
int signalNumber(const std::string& name);

}  // namespace userpod::oci
