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

// The directory of a container, and what its root file system is to be made of. The layers lie in a directory beside
// the one that holds the container's: <layersDirectory> is <directory>/../../layers, and no option needs a longer path.
struct RootPlan {
  std::string id;
  std::string layersDirectory;      // <data>/layers
  std::vector<std::string> layers;  // names in it, lowest first; a name may come again
  std::string directory;            // <data>/containers/<id>; exists
  bool trial = false;               // of no container: passes no stages

  std::string upper() const { return directory + "/upper"; }
  std::string work() const { return directory + "/work"; }
  std::string target() const { return directory + "/merged"; }  // exists, empty
};

class Driver {
 public:
  virtual ~Driver() = default;
  virtual std::string name() const = 0;
  // Makes the root file system at the plan's target, in which the container may write. After a failure the caller takes
  // away what is there. Blocks; any thread.
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
// The upper directory, alike, and the work directory.
Status makeUpper(const RootPlan& plan);

}  // namespace userpod::storage
