// Images as the core's clients ask for them. Those that are being removed are known to the strand, so that no container
// is made of layers that go away under it.
#include <fmt/format.h>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {

Error imageBusy(const std::string& imageId, const ContainerRecord& user) {
  return Error(Code::Busy, fmt::format("image {} is used by container {} ({}); remove that first", imageId, user.id,
                                       excerpt(user.config.name, 256)));
}

void CoreImpl::refreshImages(const std::string& changedId, bool removed) {
  imageList_ = std::make_shared<const ImageList>(images_->list());
  publish(Change::Kind::Image, changedId, removed);
}

// A job like those of the bus, which can be watched and cancelled there, without a caller there.
void CoreImpl::pullImage(images::PullRequest request, Callback<std::string> done) {
  std::stop_source stop;
  auto link = std::make_shared<std::stop_callback<std::function<void()>>>(request.stop,
                                                                          [stop]() mutable { stop.request_stop(); });
  request.stop = stop.get_token();
  startPullJob(std::move(request), "", std::move(stop),
               [link, done = std::move(done)](Result<std::string> pulled) { done(std::move(pulled)); });
}

Result<std::shared_ptr<const ImageRecord>> CoreImpl::usableImage(const std::string& reference) const {
  auto image = images_->find(reference);
  std::string shown(excerpt(reference, 512));
  if (!image) return Error(Code::NoSuchImage, "image " + shown + " is not here; pull it first");
  if (removing_.contains(image->id))
    return Error(Code::NoSuchImage, "image " + shown + " is being removed; pull it again");
  return image;
}

void CoreImpl::imageDocuments(const std::string& id, Callback<ImageRecord> done) {
  background<Result<ImageRecord>>([this, id] { return images_->documents(id); }, std::move(done));
}

void CoreImpl::removeImage(const std::string& reference, DoneCallback done) {
  post([this, reference, done = std::move(done)]() mutable {
    if (reference.empty()) return done(Error(Code::InvalidArgument, "image reference is empty"));
    auto image = images_->find(reference);
    // Gone, but perhaps still listed: the one whose removal is about to end.
    if (!image && !removing_.empty())
      return removing_.begin()->second.push_back(
          [this, reference, done = std::move(done)](const Status&) { removeImage(reference, done); });
    if (!image) return done({});
    const std::string& id = image->id;
    if (auto under = removing_.find(id); under != removing_.end()) return under->second.push_back(std::move(done));
    for (const auto& [key, container] : containers_)
      if (usesImage(*container->record, id)) return done(imageBusy(id, *container->record));
    removing_[id].push_back(std::move(done));
    background<Status>([this, id] { return images_->remove(id); },
                       [this, id](Status status) { imagesRemoved({{id, std::move(status)}}); });
  });
}

void CoreImpl::imagesRemoved(const std::vector<std::pair<std::string, Status>>& removed) {
  std::vector<std::pair<DoneCallback, Status>> waiters;
  for (const auto& [id, status] : removed)
    if (auto entry = removing_.extract(id))
      for (auto& done : entry.mapped()) waiters.emplace_back(std::move(done), status);
  refreshImages(removed.size() == 1 ? removed.front().first : "", true);
  for (const auto& [done, status] : waiters) done(status);
}

std::vector<std::shared_ptr<const ImageRecord>> CoreImpl::prunable(bool all) const {
  std::set<std::string> used;
  for (const auto& [id, container] : containers_) {
    used.insert(container->record->imageId);
    for (const auto& mount : container->record->config.mounts) used.insert(mount.imageId);
  }
  std::vector<std::shared_ptr<const ImageRecord>> chosen;
  for (const auto& image : images_->list())
    if (!image->pinned && (all || image->repoTags.empty()) && !used.contains(image->id) &&
        !removing_.contains(image->id))
      chosen.push_back(image);
  return chosen;
}

void CoreImpl::pruneImages(PruneOptions options, Callback<PruneResult> done) {
  post([this, options, done = std::move(done)]() mutable {
    auto chosen = prunable(options.all);
    if (!options.dryRun)
      for (const auto& image : chosen) removing_.try_emplace(image->id);
    background<Pruned>([this, options, chosen = std::move(chosen)] { return prune(chosen, options.dryRun); },
                       [this, dryRun = options.dryRun, done = std::move(done)](Pruned pruned) {
                         if (!dryRun) imagesRemoved(pruned.removed);
                         if (pruned.failure) return done(std::move(*pruned.failure));
                         done(std::move(pruned.result));
                       });
  });
}

CoreImpl::Pruned CoreImpl::prune(const std::vector<std::shared_ptr<const ImageRecord>>& chosen, bool dryRun) {
  std::vector<std::string> ids;
  for (const auto& image : chosen) ids.push_back(image->id);
  Pruned pruned;
  pruned.result.bytes = images_->freedBy(ids);
  if (dryRun) {
    pruned.result.images = ids;
    return pruned;
  }
  pruned.result.bytes += images_->dropUnfinished();
  std::vector<std::string> kept;
  for (const auto& image : chosen) {
    const std::string& id = image->id;
    // A pull may have brought it again, and named it, since it was chosen.
    if (images_->find(id) != image) {
      pruned.removed.emplace_back(id, Status());
      kept.push_back(id);
      continue;
    }
    auto status = images_->remove(id);
    if (!status && !pruned.failure) pruned.failure = Error(status.error()).wrap("image " + id);
    (status ? pruned.result.images : kept).push_back(id);
    pruned.removed.emplace_back(id, std::move(status));
  }
  if (!kept.empty()) pruned.result.bytes -= images_->freedBy(kept);
  logInfo("pruned {} images, {} bytes", pruned.result.images.size(), pruned.result.bytes);
  return pruned;
}

}  // namespace userpod::core
