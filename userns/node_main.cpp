// userpod-node: ExecStart and ExecStop of userpod-node.service.
#include <cstdio>
#include <string_view>

#include "daemon/store/live_store.hpp"
#include "daemon/sys/log.hpp"
#include "userns/drain.hpp"
#include "userns/holder.hpp"

namespace {

userpod::Status stopContainers() {
  USERPOD_TRY(paths, userpod::userPaths());
  USERPOD_TRY(node, userpod::Node::find(paths));
  USERPOD_TRY(running, userpod::store::drainTargets(paths));
  std::vector<userpod::StopTarget> targets;
  for (const auto& item : running)
    targets.push_back({item.name.empty() ? item.id : item.name, item.pid, item.pidStart, item.stopSignal, item.grace});
  return drainNode(node, targets);
}

}  // namespace

int main(int argc, char** argv) {
  std::string_view verb = argc == 2 ? argv[1] : "";
  if (verb == "run") return userpod::runHolder();
  if (verb == "stop") {
    auto status = stopContainers();
    // A node that is gone already has nothing left to stop.
    if (status || status.error().code() == userpod::Code::NotReady) return 0;
    userpod::logError("stop of the containers: {}", status.error());
    return 1;
  }
  std::fputs("usage: userpod-node run|stop\nStarted by userpod-node.service; not meant to be run by hand.\n", stderr);
  return 64;
}
