// The two kinds of processes that do a pull's work: userpod-pull, which talks to registries, and userpod-unpack, one a
// layer, which touches nothing but the layer's directory. Both end with the daemon.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "daemon/images/transfer/channel.hpp"
#include "daemon/images/unpack/layer_stream.hpp"
#include "daemon/sys/child.hpp"

namespace userpod::images {

struct PullPrograms {  // absolute paths
  std::string pull;
  std::string unpack;
  std::string data;  // userpod's data directory
};

struct TransferProcess {
  Child child;
  std::unique_ptr<Channel> channel;
};
// With the environment that registries need: proxies, the places of configuration, the session bus for credential
// helpers. HelperMissing when the program is not there. To be called, as the next one, by the thread that waits for it.
Result<TransferProcess> startTransfer(const PullPrograms& programs);

// What all layers of a pull have unpacked so far, in memory that their processes share.
class SharedCounters {
 public:
  static Result<SharedCounters> make();
  int fd() const { return fd_.get(); }

 private:
  explicit SharedCounters(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

struct UnpackProcess {
  Child child;
  UniqueFd outcome;  // readable: some of the outcome, or the end
  std::string text;  // of the outcome so far
};
// `source` is where it reads the bytes.
Result<UnpackProcess> startUnpack(const PullPrograms& programs, const UnpackOrder& order, const UniqueFd& source,
                                  int directory, const SharedCounters& counters);
// Reads on; nullopt: more is to come. Then the process has ended and is reaped, and what it did is told.
std::optional<Result<Unpacked>> readOutcome(UnpackProcess& process);

}  // namespace userpod::images
