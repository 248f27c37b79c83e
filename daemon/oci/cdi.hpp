// The Container Device Interface: files that say what a container needs to use a device. Versions 0.3.0 to 1.1.0 of the
// specification (github.com/cncf-tags/container-device-interface, SPEC.md). Any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/oci/hooks.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::oci {

struct CdiMount {
  std::string hostPath;
  std::string containerPath;
  std::string type;
  std::vector<std::string> options;
};

struct CdiEdits {
  std::vector<std::string> environment;  // "NAME=value"
  std::vector<DeviceConfig> nodes;       // permissions may be empty
  std::vector<CdiMount> mounts;
  std::vector<std::pair<std::string, Hook>> hooks;  // stage, one of kHookStages
  std::vector<std::uint32_t> groups;
};

struct CdiSpec {
  std::string file;
  std::string kind;                                       // "vendor.example/class"
  CdiEdits edits;                                         // with each of its devices
  std::vector<std::pair<std::string, CdiEdits>> devices;  // by name
};

// InvalidArgument says what is wrong, and where: what is not of the declared version is wrong too. NotSupported names
// what needs root: intelRdt, netDevices.
Result<CdiSpec> parseCdi(std::string_view text, bool yaml);

struct CdiDevice {
  std::string name;  // qualified
  std::shared_ptr<const CdiSpec> spec;
  const CdiEdits* edits;  // of the device alone, in spec
};
struct CdiDevices {
  std::vector<CdiDevice> found;       // in the order of the names
  std::vector<std::string> warnings;  // of files that could not be read, though nothing of them was needed
};
// Devices by their qualified names, "vendor.example/class=device". Of equal ones that of the later directory counts.
// InvalidArgument names a device that there is not, or that two files of one directory have, and the files that could
// not be read.
Result<CdiDevices> findCdiDevices(const std::vector<std::string>& directories, const std::vector<std::string>& names);

// The devices that annotations ask for: names separated by commas, in values of the keys cdi.k8s.io/*.
std::vector<std::string> annotatedCdiDevices(const StringMap& annotations);

}  // namespace userpod::oci
