// Images as the core's clients ask for them, and jobs: operations that can be watched and cancelled.
#include <algorithm>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

constexpr std::chrono::seconds kJobLinger{60};
constexpr std::chrono::milliseconds kProgressInterval{250};

}  // namespace

void CoreImpl::refreshImages(const std::string& changedId, bool removed) {
  imageList_ = images_->list();
  publish(Change::Kind::Image, changedId, removed);
}

void CoreImpl::pullImage(images::PullRequest request, Callback<std::string> done) {
  pulls_->submit([this, request = std::move(request), done = std::move(done)] {
    auto pulled = std::make_shared<Result<ImageRecord>>(images_->pull(request));
    post([this, pulled, done] {
      if (!*pulled) return done(pulled->error());
      refreshImages((*pulled)->id, false);
      done((*pulled)->id);
    });
  });
}

void CoreImpl::imageDocuments(const std::string& id, Callback<ImageRecord> done) {
  background<Result<ImageRecord>>([this, id] { return images_->documents(id); }, std::move(done));
}

void CoreImpl::removeImage(const std::string& reference, DoneCallback done) {
  post([this, reference, done = std::move(done)]() mutable {
    if (reference.empty()) return done(Error(Code::InvalidArgument, "image reference is empty"));
    auto image = images_->find(reference);
    if (!image) return done({});
    for (const auto& [id, container] : containers_)
      if (usesImage(*container->record, image->id))
        return done(Error(Code::Busy, "image " + image->id + " is used by container " + id + "; remove that first"));
    background<Status>([this, id = image->id] { return images_->remove(id); },
                       [this, id = image->id, done = std::move(done)](Status status) {
                         refreshImages(id, static_cast<bool>(status));
                         done(std::move(status));
                       });
  });
}

std::uint32_t CoreImpl::addJob(JobRecord record, std::stop_source stop, bool cancelable) {
  record.id = nextJob_++;
  record.startedAt = nowNanos();
  record.state = JobRecord::State::Running;
  std::uint32_t id = record.id;
  post([this, id, record = std::move(record), stop = std::move(stop), cancelable]() mutable {
    JobEntity& entity = jobs_[id];
    entity.record = std::make_shared<const JobRecord>(std::move(record));
    entity.stop = std::move(stop);
    entity.cancelable = cancelable;
    publish(Change::Kind::Job, std::to_string(id));
  });
  return id;
}

void CoreImpl::finishJob(std::uint32_t id, Status status, StringMap result) {
  auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  JobEntity& entity = found->second;
  JobRecord record = *entity.record;
  record.finishedAt = nowNanos();
  record.state = JobRecord::State::Done;
  record.result = std::move(result);
  if (!status) {
    bool canceled = status.error().code() == Code::Canceled;
    record.state = canceled ? JobRecord::State::Canceled : JobRecord::State::Failed;
    record.error = std::move(status).error();
  }
  entity.record = std::make_shared<const JobRecord>(std::move(record));
  auto waiters = std::exchange(entity.waiters, {});
  publish(Change::Kind::Job, std::to_string(id));
  for (const auto& waiter : waiters) waiter(entity.record);
  strand_->runAfter(kJobLinger, [this, id] {
    jobs_.erase(id);
    publish(Change::Kind::Job, std::to_string(id), true);
  });
}

void CoreImpl::jobProgress(std::uint32_t id, const images::PullProgress& progress) {
  auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.record->finishedAt != 0) return;
  JobEntity& entity = found->second;
  auto now = EventLoop::Clock::now();
  bool newStage = entity.record->progress.stage != progress.stage;
  if (!newStage && now - entity.lastProgress < kProgressInterval) return;
  entity.lastProgress = now;
  JobRecord record = *entity.record;
  record.progress = progress;
  entity.record = std::make_shared<const JobRecord>(std::move(record));
  publish(Change::Kind::Job, std::to_string(id));
}

std::uint32_t CoreImpl::pullImageJob(images::PullRequest request, const std::string& sender) {
  std::stop_source stop;
  JobRecord record;
  record.type = "pull-image";
  record.object = request.reference;
  record.sender = sender;
  std::uint32_t id = addJob(std::move(record), stop, true);
  request.stop = stop.get_token();
  request.progress = [this, id](const images::PullProgress& progress) {
    post([this, id, progress] { jobProgress(id, progress); });
  };
  pullImage(std::move(request), [this, id](Result<std::string> pulled) {
    Status status = pulled ? Status() : Status(pulled.error());
    StringMap result;
    if (pulled) result["image"] = *pulled;
    post([this, id, status = std::move(status), result = std::move(result)] { finishJob(id, status, result); });
  });
  return id;
}

std::uint32_t CoreImpl::job(const std::string& type, const std::string& object, const std::string& sender,
                            std::function<void(DoneCallback)> operation) {
  JobRecord record;
  record.type = type;
  record.object = object;
  record.sender = sender;
  std::uint32_t id = addJob(std::move(record), {}, false);
  operation([this, id](Status status) { post([this, id, status = std::move(status)] { finishJob(id, status, {}); }); });
  return id;
}

Status CoreImpl::cancelJob(std::uint32_t id) {
  const auto current = snapshot();
  auto found = std::find_if(current->jobs.begin(), current->jobs.end(), [&](const auto& job) { return job->id == id; });
  if (found == current->jobs.end()) return Error(Code::NoSuchJob, "no job " + std::to_string(id));
  if ((*found)->finishedAt != 0) return Error(Code::InvalidState, "job " + std::to_string(id) + " is over");
  if ((*found)->type != "pull-image")
    return Error(Code::InvalidState, "job " + std::to_string(id) + " (" + (*found)->type + ") cannot be cancelled");
  post([this, id] {
    auto entity = jobs_.find(id);
    if (entity == jobs_.end() || entity->second.record->finishedAt != 0) return;
    JobRecord record = *entity->second.record;
    record.state = JobRecord::State::Canceling;
    entity->second.record = std::make_shared<const JobRecord>(std::move(record));
    entity->second.stop.request_stop();
    publish(Change::Kind::Job, std::to_string(id));
  });
  return {};
}

void CoreImpl::waitJob(std::uint32_t id, std::function<void(Result<std::shared_ptr<const JobRecord>>)> done) {
  post([this, id, done = std::move(done)]() mutable {
    auto found = jobs_.find(id);
    if (found == jobs_.end()) return done(Error(Code::NoSuchJob, "no job " + std::to_string(id)));
    if (found->second.record->finishedAt != 0) return done(found->second.record);
    found->second.waiters.push_back(std::move(done));
  });
}

}  // namespace userpod::core
