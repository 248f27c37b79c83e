// A check: looks twice, with a pause, so that what is under way does not count; then mends, if it was asked to.
#include <fmt/format.h>

#include <algorithm>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::core {
namespace {

// Exit files, dying processes and what is removed in the background are there for less.
constexpr std::chrono::milliseconds kSecondLook{1000};
// The kernel takes down a network namespace, and the veth in it, when it has time.
constexpr std::chrono::seconds kLinksGoIn{10};

// What one look found and the next one too.
Findings inBoth(const Findings& before, const Findings& now) {
  Findings both;
  for (const auto& finding : now)
    if (std::any_of(before.begin(), before.end(), [&](const auto& one) { return one.sameThing(finding); }))
      both.push_back(finding);
  return both;
}

}  // namespace

struct CoreImpl::Checking {
  CheckOptions options;
  std::stop_token stop;
  std::function<void(images::PullProgress)> progress;
  Callback<Findings> done;
  Findings found;
  int looks = 0;
  std::size_t mended = 0;  // of found, those that were tried
};

Known CoreImpl::known() const {
  Known known;
  for (const auto& [id, pod] : pods_)
    known.pods[id] = {pod->record, pod->operations.busy() || pod->record->state == PodRecord::State::Creating ||
                                       (pod->stopping && pod->record->state == PodRecord::State::Ready)};
  for (const auto& [id, container] : containers_) {
    bool over = container->record->state == ContainerRecord::State::Exited;
    known.containers[id] = {container->record, container->operations.busy() || container->stop ||
                                                   container->record->state == ContainerRecord::State::Creating ||
                                                   (container->exitSeen && !over)};
  }
  return known;
}

std::uint32_t CoreImpl::checkJob(CheckOptions options, const std::string& sender) {
  std::stop_source stop;
  auto checking = std::make_shared<Checking>();
  checking->options = options;
  checking->stop = stop.get_token();
  JobRecord record;
  record.type = kCheckJob;
  record.sender = sender;
  std::uint32_t id = addJob(std::move(record), stop, true);
  checking->progress = [this, id](images::PullProgress progress) {
    post([this, id, progress = std::move(progress)] { jobProgress(id, progress); });
  };
  checking->done = [this, id](Result<Findings> found) {
    finishJob(id, found ? Status() : Status(found.error()), [&](JobRecord& job) { job.findings = *found; });
    checks_.release();
  };
  // One after the other: each takes a worker for as long as it looks, and pods want them too.
  post([this, checking] { checks_.acquire([this, checking] { lookOnce(checking); }); });
  return id;
}

void CoreImpl::lookOnce(const std::shared_ptr<Checking>& checking) {
  if (checking->stop.stop_requested()) return checking->done(Error(Code::Canceled, "the check was canceled"));
  checking->progress({.stage = "comparing", .done = 0, .total = 0, .layers = {}});
  background<std::pair<Known, Findings>>(
      [this, checking, known = known()] {
        auto seen = look(known, checking->options);
        return std::pair(known, compare(known, seen, parts_.paths));
      },
      [this, checking](std::pair<Known, Findings> looked) {
        auto now = known();
        std::erase_if(looked.second, [&](const Finding& finding) { return hasMoved(looked.first, now, finding); });
        checking->found = checking->looks++ == 0 ? std::move(looked.second) : inBoth(checking->found, looked.second);
        lookAgain(checking);
      });
}

void CoreImpl::lookAgain(const std::shared_ptr<Checking>& checking) {
  if (checking->stop.stop_requested()) return checking->done(Error(Code::Canceled, "the check was canceled"));
  bool suspicious = !checking->found.empty();
  bool links = std::any_of(checking->found.begin(), checking->found.end(),
                           [](const auto& finding) { return finding.kind == "link"; });
  if (checking->looks == 1 && suspicious)
    return void(strand_->runAfter(kSecondLook, [this, checking] { lookOnce(checking); }));
  if (checking->looks == 2 && links)
    return void(strand_->runAfter(kLinksGoIn, [this, checking] { lookOnce(checking); }));
  if (checking->options.deep) return lookDeeply(checking);
  background<ImagesByLayer>([this] { return images_->imagesByLayer(); },
                            [this, checking](const ImagesByLayer& images) { judge(checking, images); });
}

void CoreImpl::lookDeeply(const std::shared_ptr<Checking>& checking) {
  using Looked = std::pair<Result<Findings>, ImagesByLayer>;
  background<Looked>(
      [this, checking] {
        auto found = images_->checkDeeply(checking->stop, [&](std::size_t done, std::size_t total) {
          checking->progress({.stage = "counting", .done = done, .total = total, .layers = {}});
        });
        return Looked(std::move(found), images_->imagesByLayer());
      },
      [this, checking](Looked looked) {
        auto& found = looked.first;
        if (!found) return checking->done(std::move(found).error());
        checking->found.insert(checking->found.end(), found->begin(), found->end());
        judge(checking, looked.second);
      });
}

std::vector<std::string> CoreImpl::imagesIn(const ImagesByLayer& byLayer, const Finding& finding) {
  if (finding.kind == "image") return {finding.id};
  auto found = byLayer.find(finding.id);
  return found == byLayer.end() ? std::vector<std::string>() : found->second;
}

// A layer or an image that a container uses is not to be removed.
void CoreImpl::judge(const std::shared_ptr<Checking>& checking, const ImagesByLayer& byLayer) {
  for (auto& finding : checking->found) {
    if (finding.kind != "layer" && finding.kind != "image") continue;
    auto images = imagesIn(byLayer, finding);
    for (const auto& [id, container] : containers_)
      for (const auto& image : images)
        if (finding.repairable && usesImage(*container->record, image)) {
          finding.repairable = false;
          finding.text += "; container " + id.substr(0, 12) + " uses it";
          finding.mend =
              fmt::format("userpodctl rm --force {}, then check --repair, then pull again", id.substr(0, 12));
        }
  }
  // Processes before what they hold, mounts before what they are on.
  auto rank = [](const Finding& finding) { return finding.kind == "cgroup" ? 0 : finding.kind == "mount" ? 1 : 2; };
  std::stable_sort(checking->found.begin(), checking->found.end(),
                   [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  for (const auto& finding : checking->found)
    logMessage(finding.severity == Finding::Severity::Info ? Level::Info : Level::Warning,
               fmt::format("check: {} {}: {}", finding.code, finding.id, finding.text), {});
  mendNext(checking);
}

void CoreImpl::mendNext(const std::shared_ptr<Checking>& checking) {
  if (checking->stop.stop_requested()) return checking->done(Error(Code::Canceled, "the check was canceled"));
  auto& found = checking->found;
  auto& at = checking->mended;
  while (at < found.size() && !(checking->options.repair && found[at].repairable)) ++at;
  if (at == found.size()) {
    auto severity = [](const Finding& finding) { return static_cast<int>(finding.severity); };
    std::stable_sort(found.begin(), found.end(),
                     [&](const auto& a, const auto& b) { return severity(a) > severity(b); });
    return checking->done(found);
  }
  checking->progress({.stage = "repairing", .done = at, .total = found.size(), .layers = {}});
  mend(found[at], [this, checking](Status status) {
    post([this, checking, status = std::move(status)] {
      auto& finding = checking->found[checking->mended++];
      finding.repaired = bool(status);
      if (!status) finding.failure = status.error().text();
      logMessage(status ? Level::Info : Level::Warning,
                 fmt::format("check: {} {}: {}", finding.code, finding.id, status ? "repaired" : finding.failure), {});
      mendNext(checking);
    });
  });
}

}  // namespace userpod::core
