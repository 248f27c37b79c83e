// Networks by CNI plugins, as a backend.
#include <thread>

#include "daemon/network/backend.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::network {
namespace {

class CniBackend final : public Backend {
 public:
  explicit CniBackend(std::unique_ptr<Cni> cni) : cni_(std::move(cni)) {}
  ~CniBackend() override {
    stop();
    if (cleaner_.joinable()) cleaner_.join();
  }

  // Beside everything else: a plugin may take its time.
  void collectGarbage(const Earlier& earlier) {
    std::set<std::string> living;
    for (const auto& pod : earlier.living) living.insert(pod.id);
    cleaner_ = std::thread([this, living = std::move(living)] {
      if (auto done = cni_->collectGarbage(living); !done) logWarning("{}", done.error().text());
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
  Joined joined(const PodRecord& pod) override { return {pod.addresses, cni_->attachment(pod.id).mapsPorts}; }
  Status leave(const PodRecord& pod, const std::string& pin) override { return cni_->remove(pod.id, pin); }
  void release(const PodRecord&) override {}
  void stop() override { cni_->stop(); }
  std::string problem() const override { return cni_->problem(); }
  std::string note() const override { return {}; }
  std::string stack() const override { return "cni"; }
  void describe(NetworkView& view) const override { view.cni = cni_->networks(); }

 private:
  std::unique_ptr<Cni> cni_;
  std::thread cleaner_;
};

}  // namespace

Result<std::unique_ptr<Backend>> openCni(const Paths& paths, const Settings& settings, const NodeInside& node,
                                         const Earlier& earlier) {
  USERPOD_TRY(cni, Cni::open(paths, settings, node));
  auto backend = std::make_unique<CniBackend>(std::move(cni));
  backend->collectGarbage(earlier);
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace userpod::network
