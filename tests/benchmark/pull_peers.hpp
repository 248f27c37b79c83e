// Other programs that pull the same images from the same registry: Debian's skopeo and rootless Podman, as the same
// user, each with stores, caches and configuration of its own that hold nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/benchmark/host_side.hpp"

namespace userpod::bench {

// Times are those of the whole program, from its start to its end, in milliseconds.
class PullPeers {
 public:
  // scratch: where all that they store goes, on the disk of the daemon's data; the caller removes it. live: their
  // runtime directory, which must be short; it is removed with this object.
  static Result<std::unique_ptr<PullPeers>> find(HostSide& host, const std::string& scratch, const std::string& live);
  ~PullPeers();  // ends what Podman leaves running too

  bool hasSkopeo() const { return !skopeo_.empty(); }
  bool hasPodman() const { return !podman_.empty(); }

  // `skopeo copy` into a new directory: the layers as they are, not unpacked.
  Result<double> skopeoCopy(const std::string& image);
  // `podman pull` of all images in a row by one program, on native overlay. Stores of other names are other stores.
  Result<double> podmanPull(const std::vector<std::string>& images, const std::string& store);
  Result<PeakMemory> podmanMemory(const std::string& image, const std::string& store);

 private:
  PullPeers(HostSide& host, std::string scratch, std::string live)
      : host_(host), scratch_(std::move(scratch)), live_(std::move(live)) {}
  std::vector<std::string> podman(const std::vector<std::string>& images, const std::string& store) const;
  std::vector<std::string> environment() const;

  HostSide& host_;
  const std::string scratch_;
  const std::string live_;
  std::string skopeo_;
  std::string podman_;
  unsigned copies_ = 0;
};

}  // namespace userpod::bench
