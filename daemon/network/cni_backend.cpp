// Networks by CNI plugins, as a backend.
#include <atomic>
#include <chrono>
#include <future>
#include <thread>

#include "daemon/network/backend.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::network {
namespace {

// For DEL at a start, in all: a plugin that hangs must not keep the daemon from being ready.
constexpr std::chrono::seconds kStartWait{10};

class CniBackend final : public Backend {
 public:
  CniBackend(std::unique_ptr<Cni> cni, const Earlier& earlier) : cni_(std::move(cni)) {
    for (const auto& pod : earlier.living)
      if (pod.config.security.namespaces.network != NamespaceMode::Node) living_.insert(pod.id);
  }
  ~CniBackend() override {
    stop();
    if (cleaner_.joinable()) cleaner_.join();
  }

  // Beside everything else: a plugin may take its time.
  void lookAfterEarlier() {
    cleaner_ = std::thread([this] {
      if (auto done = cni_->collectGarbage(living_); !done) logWarning("{}", done.error());
      for (const auto& id : living_) checkLiving(id);
    });
  }

  Result<std::vector<std::string>> reserve(const std::string&) override {
    if (auto problem = cni_->problem(); !problem.empty()) return Error(Code::NotReady, problem);
    return std::vector<std::string>();
  }
  Result<Joined> join(const PodRecord& pod, const std::string& pin) override {
    USERPOD_TRY(attachment, cni_->add(pod.id, pod.config, pod.cgroup, pin));
    return Joined{std::move(attachment.addresses), attachment.mapsPorts};
  }
  // Plugins see the node's host name and IPC at ADD as at DEL.
  bool joinsInside() const override { return false; }
  Joined joined(const PodRecord& pod) override { return {pod.addresses, cni_->attachment(pod.id).mapsPorts}; }
  Status leave(const PodRecord& pod, const std::string& pin) override;
  void release(const PodRecord&) override {}
  void recovered() override { recovered_ = true; }
  void stop() override {
    stopped_ = true;
    cni_->stop();
  }
  std::string problem() const override { return cni_->problem(); }
  std::string note() const override { return {}; }
  std::string stack() const override { return "cni"; }
  void describe(NetworkView& view) const override { view.cni = cni_->networks(); }

 private:
  void checkLiving(const std::string& id);

  std::unique_ptr<Cni> cni_;
  std::set<std::string> living_;  // as they were at the start
  const std::chrono::steady_clock::time_point startDeadline_ = std::chrono::steady_clock::now() + kStartWait;
  std::atomic<bool> recovered_ = false;
  std::atomic<bool> stopped_ = false;
  std::thread cleaner_;
  Workers undoing_{1, "cni-undo"};
};

// Plugins are given the time to undo what they did in the pod's namespace, as those of a bridge leave address
// translation behind without it. What is late ends in the background, or is the collector's.
Status CniBackend::leave(const PodRecord& pod, const std::string& pin) {
  if (recovered_ || living_.contains(pod.id)) return cni_->remove(pod.id, pin);
  if (std::chrono::steady_clock::now() >= startDeadline_) return {};
  auto done = std::make_shared<std::promise<Status>>();
  auto status = done->get_future();
  undoing_.submit([this, done, id = pod.id, pin] { done->set_value(cni_->remove(id, pin)); });
  if (status.wait_until(startDeadline_) == std::future_status::ready) return status.get();
  logMessage(Level::Warning, "CNI plugins take long to undo the pod's network; it goes on in the background",
             {{"POD_ID", pod.id}});
  return {};
}

// Only said: what is to be done about it, the user or the add-on knows.
void CniBackend::checkLiving(const std::string& id) {
  if (stopped_ || cni_->attachment(id).addresses.empty()) return;
  auto checked = cni_->check(id);
  // It may have left meanwhile.
  if (checked || stopped_ || cni_->attachment(id).addresses.empty()) return;
  logWarning("pod {}: its network is not as it was made: {}", ofPod(id), checked.error());
}

}  // namespace

Result<std::unique_ptr<Backend>> openCni(const Paths& paths, const LiveSettings& settings, const NodeInside& node,
                                         const Earlier& earlier) {
  USERPOD_TRY(cni, Cni::open(paths, settings, node));
  auto backend = std::make_unique<CniBackend>(std::move(cni), earlier);
  backend->lookAfterEarlier();
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace userpod::network
