#include "tests/benchmark/pull_peers.hpp"

#include <fmt/core.h>

#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::bench {

Result<std::unique_ptr<PullPeers>> PullPeers::find(HostSide& host, const std::string& scratch,
                                                   const std::string& live) {
  std::unique_ptr<PullPeers> peers(new PullPeers(host, scratch, live));
  for (const char* part : {"/home", "/data", "/config", "/copies"})
    USERPOD_CHECK(makeDirectories(scratch + part, 0700));
  USERPOD_CHECK(makeDirectories(live, 0700));
  USERPOD_TRY(skopeo, host.findTool("skopeo"));
  USERPOD_TRY(podman, host.findTool("podman"));
  peers->skopeo_ = std::move(skopeo);
  peers->podman_ = std::move(podman);
  return peers;
}

PullPeers::~PullPeers() {
  auto report = [](const Error& error) { logWarning("left behind by the benchmark: {}", error.text()); };
  // The process that keeps Podman's user namespace.
  if (auto pause = readFile(live_ + "/libpod/tmp/pause.pid"))
    if (auto ended = host_.run({"/bin/kill", std::string(trim(*pause))}, {}); !ended) report(ended.error());
  if (auto removed = removeTree(live_); !removed) report(removed.error());
}

std::vector<std::string> PullPeers::environment() const {
  return {"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + scratch_ + "/home", "XDG_RUNTIME_DIR=" + live_,
          "XDG_DATA_HOME=" + scratch_ + "/data", "XDG_CONFIG_HOME=" + scratch_ + "/config"};
}

Result<double> PullPeers::skopeoCopy(const std::string& image) {
  auto target = fmt::format("dir:{}/copies/{}", scratch_, copies_++);
  return host_.run({skopeo_, "copy", "--quiet", "--src-tls-verify=false", "docker://" + image, target}, environment());
}

// Overlay is said, as Podman without a configuration takes vfs, which copies each layer.
std::vector<std::string> PullPeers::podman(const std::vector<std::string>& images, const std::string& store) const {
  std::vector<std::string> argv{podman_,
                                "--cgroup-manager=cgroupfs",
                                "--events-backend=none",
                                "--log-level=error",
                                "--storage-driver=overlay",
                                fmt::format("--root={}/podman-{}", scratch_, store),
                                fmt::format("--runroot={}/{}", live_, store),
                                "pull",
                                "--quiet",
                                "--tls-verify=false"};
  argv.insert(argv.end(), images.begin(), images.end());
  return argv;
}

Result<double> PullPeers::podmanPull(const std::vector<std::string>& images, const std::string& store) {
  return host_.run(podman(images, store), environment());
}

Result<PeakMemory> PullPeers::podmanMemory(const std::string& image, const std::string& store) {
  return host_.memoryOf(podman({image}, store), environment());
}

}  // namespace userpod::bench
