// What the three drivers share, and the one thing in which they differ: how a root file system comes to be.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod {
struct NodeInside;
}

namespace userpod::storage {

// The directory of a container, or of an image volume of one, and what is to be mounted there.
struct RootPlan {
  std::string id;                   // names the cgroup of the process that serves it, where there is one
  std::string layersDirectory;      // <data>/layers
  std::vector<std::string> layers;  // names in it, lowest first; a name may come again
  std::string directory;            // <data>/containers/<id>, or <data>/containers/<id>/volumes/<number>; exists
  bool readOnly = false;            // a volume: nothing is ever written there
  bool trial = false;               // of no container: passes no stages
  std::string label = {};           // of SELinux; empty: that of the files themselves

  std::string upper() const { return directory + "/upper"; }
  std::string work() const { return directory + "/work"; }
  std::string target() const { return directory + "/merged"; }  // exists, empty
  // One directory as the other names it: options are short, and have none of the commas and colons that a path may
  // have.
  std::string layersFromDirectory() const;
  std::string directoryFromLayers() const;
};

class Driver {
 public:
  virtual ~Driver() = default;
  virtual std::string name() const = 0;
  // Makes the root file system at the plan's target, in which the container may write, or what is only to be read.
  // After a failure the caller takes away what is there. Blocks; any thread.
  virtual Status mount(const RootPlan& plan) = 0;
};

std::unique_ptr<Driver> makeNativeOverlay();
std::unique_ptr<Driver> makeFuseOverlay(const NodeInside& node);  // the node outlives it
std::unique_ptr<Driver> makeCopy();

// Names of the layers, highest first, each once: the higher place of one that comes again hides the lower completely.
// ImageInvalid without any.
Result<std::vector<std::string>> stackOf(const RootPlan& plan);
// Gives a directory, made if missing, the owner and mode that the image's root has.
Status makeRoot(const RootPlan& plan, const std::string& directory);
// The upper directory, alike, and the work directory if something is to be written. Otherwise the upper one is the
// highest of the lower ones, empty: the root gets its mode by it, and the kernel's overlay wants two.
Status makeUpper(const RootPlan& plan);

}  // namespace userpod::storage
