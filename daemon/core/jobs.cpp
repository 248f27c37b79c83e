// Jobs: operations that can be watched and cancelled.
#include <algorithm>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::core {
namespace {

constexpr std::chrono::seconds kJobLinger{60};
constexpr std::chrono::milliseconds kProgressInterval{250};

// The failure of a CRI client's own call is told where that is answered.
void logEnd(const JobRecord& job) {
  std::string number = std::to_string(job.id);
  LogFields fields{{"JOB_ID", number}};
  if (job.type == "pull-image" && !job.error) {
    fields.emplace_back("IMAGE", job.image);
    return logMessage(Level::Info, fmt::format("pulled {}", excerpt(job.object, 300)), fields);
  }
  std::string object = excerpt(job.object, 300);
  if (job.type.ends_with("-pod")) fields.emplace_back("POD_ID", object);
  if (job.type.ends_with("-container")) fields.emplace_back("CONTAINER_ID", object);
  if (job.type.ends_with("-image")) fields.emplace_back("IMAGE", object);
  if (!job.error)
    return logMessage(Level::Debug, fmt::format("job {} is done: {} {}", job.id, job.type, object), fields);
  bool told = job.sender.empty() || job.error->code() == Code::Canceled;
  logFailure(told ? Level::Debug : Level::Info, *job.error, fields,
             fmt::format("job {} failed: {} {}", job.id, job.type, object));
}

}  // namespace

std::uint32_t CoreImpl::addJob(JobRecord record, std::stop_source stop, bool cancelable) {
  record.id = nextJob_++;
  record.startedAt = nowNanos();
  // Only a pull has to wait for its turn.
  record.state = record.type == kPullJob ? JobRecord::State::Queued : JobRecord::State::Running;
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

void CoreImpl::finishJob(std::uint32_t id, Status status, const JobResult& result) {
  auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  JobEntity& entity = found->second;
  strand_->cancel(entity.teller);
  JobRecord record = *entity.record;
  record.progress = std::move(entity.progress);
  record.rate = 0;
  record.finishedAt = nowNanos();
  record.state = JobRecord::State::Done;
  if (status) {
    if (result) result(record);
  } else {
    bool canceled = status.error().code() == Code::Canceled;
    record.state = canceled ? JobRecord::State::Canceled : JobRecord::State::Failed;
    record.error = std::move(status).error();
  }
  logEnd(record);
  entity.record = std::make_shared<const JobRecord>(std::move(record));
  auto waiters = std::exchange(entity.waiters, {});
  publish(Change::Kind::Job, std::to_string(id));
  for (const auto& waiter : waiters) waiter(entity.record);
  strand_->runAfter(kJobLinger, [this, id] {
    jobs_.erase(id);
    publish(Change::Kind::Job, std::to_string(id), true);
  });
}

// Told at most every kProgressInterval, the last one always.
void CoreImpl::jobProgress(std::uint32_t id, images::PullProgress progress) {
  auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.record->finishedAt != 0) return;
  JobEntity& entity = found->second;
  auto now = EventLoop::Clock::now();
  entity.rate.add(now, progress.done);
  entity.progress = std::move(progress);
  if (entity.teller != 0) return;
  if (now - entity.toldAt >= kProgressInterval) return tellProgress(id);
  entity.teller = strand_->runAt(entity.toldAt + kProgressInterval, [this, id] { tellProgress(id); });
}

void CoreImpl::tellProgress(std::uint32_t id) {
  auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.record->finishedAt != 0) return;
  JobEntity& entity = found->second;
  entity.teller = 0;
  entity.toldAt = EventLoop::Clock::now();
  JobRecord record = *entity.record;
  if (record.state == JobRecord::State::Queued) record.state = JobRecord::State::Running;
  record.progress = entity.progress;
  record.rate = entity.rate.rate(entity.toldAt);
  // A rate falls also when nothing comes any more.
  if (record.rate != 0)
    entity.teller = strand_->runAt(entity.toldAt + kProgressInterval, [this, id] { tellProgress(id); });
  entity.record = std::make_shared<const JobRecord>(std::move(record));
  publish(Change::Kind::Job, std::to_string(id));
}

std::uint32_t CoreImpl::pullImageJob(images::PullRequest request, const std::string& sender) {
  std::stop_source stop;
  request.stop = stop.get_token();
  return startPullJob(std::move(request), sender, std::move(stop), {});
}

// The job ends before the caller is answered.
std::uint32_t CoreImpl::startPullJob(images::PullRequest request, const std::string& sender, std::stop_source stop,
                                     Callback<std::string> done) {
  JobRecord record;
  record.type = kPullJob;
  record.object = request.reference;
  record.sender = sender;
  std::uint32_t id = addJob(std::move(record), std::move(stop), true);
  request.progress = [this, id](const images::PullProgress& progress) { jobProgress(id, progress); };
  post([this, id, request = std::move(request), done = std::move(done)]() mutable {
    pulls_->start(std::move(request), [this, id, done = std::move(done)](Result<std::string> pulled) {
      finishJob(id, pulled ? Status() : Status(pulled.error()), [&](JobRecord& job) { job.image = *pulled; });
      if (done) done(std::move(pulled));
    });
  });
  return id;
}

std::uint32_t CoreImpl::pruneImagesJob(PruneOptions options, const std::string& sender) {
  JobRecord record;
  record.type = "prune-images";
  record.sender = sender;
  std::uint32_t id = addJob(std::move(record), {}, false);
  pruneImages(options, [this, id](Result<PruneResult> pruned) {
    post([this, id, pruned = std::move(pruned)] {
      finishJob(id, pruned ? Status() : Status(pruned.error()), [&](JobRecord& job) { job.pruned = *pruned; });
    });
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
  if (!isCancelable((*found)->type))
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
