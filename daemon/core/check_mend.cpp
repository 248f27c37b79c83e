// The mends of what a check finds. Nothing that a record owns is removed; what is said of an object is looked at once
// more with its queue held.
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/mount.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

std::string lastOf(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

Status restoreMode(const std::string& path, unsigned mode) {
  USERPOD_TRY(file, openFile(path, O_PATH | O_NOFOLLOW));
  // By the descriptor: what the name leads to may have become a link since.
  std::string self = "/proc/self/fd/" + std::to_string(file.get());
  if (::chmod(self.c_str(), mode) < 0) return sysError("set the mode of " + path);
  return {};
}

// Of a process that is held; without one nothing is said against it.
bool hasEnded(const UniqueFd& process) {
  if (!process) return true;
  pollfd wait{.fd = process.get(), .events = POLLIN, .revents = 0};
  return ::poll(&wait, 1, 0) == 1;
}

Error gone(const Finding& finding) {
  return {Code::Busy, finding.id + " has changed meanwhile; check again"};
}

}  // namespace

void CoreImpl::mend(const Finding& finding, DoneCallback done) {
  const std::string& code = finding.code;
  if (finding.kind == "layer" || finding.kind == "image") return mendImage(finding, std::move(done));
  if (code == "database-damaged" || code == "record-differs") return done(mendLiveStore(code == "database-damaged"));
  if (finding.kind == "pod" && code != "pin-left") return done(gone(finding));
  if (code == "pin-left") return mendPod(finding, std::move(done));
  if (code == "exit-unseen" || code == "process-missing" || code.ends_with("-left"))
    if (finding.kind == "container") return mendContainer(finding, std::move(done));
  auto work = [this, finding] { return mendThing(finding); };
  background<Status>(std::move(work), std::move(done));
}

// What belongs to nobody: ids do not come again.
Status CoreImpl::mendThing(const Finding& finding) {
  const std::string& code = finding.code;
  const std::string name = lastOf(finding.id);
  if (finding.kind == "link" || finding.kind == "port") return network_->mend(finding);
  if (finding.kind == "cgroup") {
    if (code == "server-unknown" || code == "monitor-unknown" || code == "cgroup-unknown")
      return node_.removeCgroup(finding.id);
  }
  if (finding.kind == "mount") return unmountDetached(finding.id);
  if (code.starts_with("layer-")) return images_->mend(finding);
  if (code.starts_with("container-")) return storage_->mend(finding);
  if (code == "runtime-state-unknown") return mendRuntimeState(finding.id);
  if (code == "mode-wrong") {
    Seen seen;
    lookAtPaths(seen);
    for (const auto& path : seen.paths)
      if (path.path == finding.id && path.own) return restoreMode(path.path, path.expected);
    return gone(finding);
  }
  if (code == "database-set-aside") {
    for (const char* suffix : {"", "-wal", "-shm", "-journal"}) USERPOD_CHECK(removeTree(finding.id + suffix));
    return {};
  }
  if (code == "pod-directory-unknown" || code == "pin-unknown") {
    USERPOD_CHECK(network_->tearDown(PodRecord{.id = name}));
    return removeTree(parts_.paths.podDirectory(name));
  }
  if (code == "bundle-unknown" || code == "exit-file-unknown") return removeTree(finding.id);
  return Error(Code::NotSupported, "there is no repair of " + code);
}

Status CoreImpl::mendRuntimeState(const std::string& id) {
  for (const auto& [known, handler] : runtime_->containers())
    if (known == id) return runtime_->remove(id, handler);
  return {};
}

void CoreImpl::mendImage(const Finding& finding, DoneCallback done) {
  background<std::vector<std::string>>(
      [this, finding] {
        return imagesIn(finding.kind == "layer" ? images_->imagesByLayer() : ImagesByLayer(), finding);
      },
      [this, finding, done = std::move(done)](const std::vector<std::string>& images) mutable {
        removeImagesOf(finding, images, std::move(done));
      });
}

void CoreImpl::removeImagesOf(const Finding& finding, const std::vector<std::string>& images, DoneCallback done) {
  if (images.empty()) return background<Status>([this, finding] { return images_->mend(finding); }, std::move(done));
  removeImage(images.front(),
              [this, finding, left = images.size() - 1, done = std::move(done)](Status removed) mutable {
                if (!removed) return done(std::move(removed));
                if (left == 0 && finding.kind == "image") return done({});
                // The next of its images, and at the end the layer itself, if it was not an image's.
                post([this, finding, done = std::move(done)]() mutable {
                  if (finding.kind == "layer") return mendImage(finding, std::move(done));
                  done({});
                });
              });
}

void CoreImpl::mendPod(const Finding& finding, DoneCallback done) {
  auto found = pods_.find(finding.id);
  if (found == pods_.end()) return done(gone(finding));
  PodPointer pod = found->second;
  pod->operations.acquire([this, pod, finding, done = std::move(done)]() mutable {
    if (pod->removed || pod->record->state != PodRecord::State::NotReady) {
      pod->operations.release();
      return done(gone(finding));
    }
    background<Status>(
        workersFor(*pod->record), [this, record = pod->record] { return network_->tearDown(*record); },
        [pod, done = std::move(done)](Status status) {
          pod->operations.release();
          done(std::move(status));
        });
  });
}

void CoreImpl::mendContainer(const Finding& finding, DoneCallback done) {
  auto found = containers_.find(finding.id);
  if (found == containers_.end()) return done(gone(finding));
  ContainerPointer container = found->second;
  container->operations.acquire([this, container, finding, done = std::move(done)]() mutable {
    const ContainerRecord& record = *container->record;
    bool over = record.state == ContainerRecord::State::Exited;
    if (container->removed || over != finding.code.ends_with("-left")) {
      container->operations.release();
      return done(gone(finding));
    }
    if (over) return mendEnded(container, finding, std::move(done));
    if (finding.code == "process-missing" && !(isGone(record.pid, record.pidStart) && hasEnded(container->process))) {
      container->operations.release();
      return done(gone(finding));
    }
    container->exitSeen = true;
    handleExit(container);
    // Its turn comes when that has been done.
    container->operations.acquire([container, finding, done = std::move(done)] {
      bool over = container->record->state == ContainerRecord::State::Exited;
      container->operations.release();
      done(over ? Status() : Status(gone(finding)));
    });
  });
}

void CoreImpl::mendEnded(const ContainerPointer& container, const Finding& finding, DoneCallback done) {
  background<Status>(
      [this, record = container->record, code = finding.code]() -> Status {
        if (code != "cgroup-left") return {};
        // Its monitor's and its server's too.
        for (const auto& found : cgroupsWithIds(node_.cgroupRoot, [&](auto& id) { return id == record->podId; }))
          if (found.id == record->id) USERPOD_CHECK(node_.removeCgroup(found.path));
        return {};
      },
      [this, container, done = std::move(done)](Status removed) {
        releaseAfterExit(container, [removed = std::move(removed), done](Status released) {
          done(removed ? std::move(released) : removed);
        });
      });
}

// From what is known here, which is the truth.
Status CoreImpl::mendLiveStore(bool damaged) {
  auto written = damaged ? store_->rebuild(allRecords()) : store_->replace(allRecords());
  noteStore(written);
  return written;
}

}  // namespace userpod::core
