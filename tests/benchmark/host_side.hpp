// A process beside the benchmark that stays in the host's namespaces: other runtimes need those, and from there the
// memory of all of the user's processes can be read, in the node or not.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "daemon/sys/child.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::bench {

// The most that all watched processes together had at one moment, in MiB. Memory that two of them share counts once in
// PSS and twice in RSS.
struct PeakMemory {
  double rss = 0, pss = 0;
};

// Blocking; one caller at a time, in the process that started it or in one forked from it.
class HostSide {
 public:
  // The caller must be single-threaded. The process ends when the last caller has gone.
  static Result<std::unique_ptr<HostSide>> start();
  ~HostSide();

  // Empty if it is not installed.
  Result<std::string> findTool(const std::string& name);
  // Runs it to its end; any exit status but 0 is an error with what the program said. Milliseconds.
  Result<double> run(const std::vector<std::string>& argv, const std::vector<std::string>& environment);
  // The same, with the memory of the program and all it starts. Reading that takes time: it is no measure of speed.
  Result<PeakMemory> memoryOf(const std::vector<std::string>& argv, const std::vector<std::string>& environment);
  // The memory of the user's processes of these names during the action.
  Result<PeakMemory> memoryDuring(const std::vector<std::string>& names, const std::function<Status()>& action);

 private:
  HostSide(Child child, UniqueFd socket) : child_(std::move(child)), socket_(std::move(socket)) {}
  Result<nlohmann::json> call(const nlohmann::json& request);

  Child child_;
  UniqueFd socket_;
};

}  // namespace userpod::bench
