#include "dbus/front.hpp"

#include <fmt/format.h>

#include <csignal>
#include <utility>

#include "daemon/sys/log.hpp"
#include "dbus/network_map.hpp"
#include "dbus/options.hpp"

namespace userpod::bus {
namespace {

constexpr const char* kBusDaemon = "org.freedesktop.DBus";
constexpr const char* kBusDaemonPath = "/org/freedesktop/DBus";
constexpr std::chrono::milliseconds kDefaultGrace{10000};  // of the CRI's clients and of the core's own pod stop
constexpr std::uint64_t kLongestGraceMillis = 7ULL * 24 * 3600 * 1000;  // a week: longer is a mistake in the unit

Status managedCheck(Origin origin, bool force, std::string_view what, const std::string& id) {
  if (origin != Origin::Cri || force) return {};
  return Error(Code::Managed,
               fmt::format("{} {} belongs to a client of the CRI, such as a kubelet, which would replace "
                           "it; set the option \"force-managed\" to true to do it all the same",
                           what, id));
}

// The answer to a call whose only result is that it worked.
core::DoneCallback doneReply(const Reply<>& reply) {
  return [reply](Status status) { status ? reply.send() : reply.fail(std::move(status).error()); };
}

}  // namespace

Front::Front(core::Core& core, std::shared_ptr<Courier> courier, sdbus::IConnection& connection,
             std::shared_ptr<const core::Snapshot> snapshot)
    : core_(core),
      courier_(std::move(courier)),
      snapshot_(std::move(snapshot)),
      tree_(connection, *this, core, *snapshot_),
      busDaemon_(makeProxy(connection, kBusDaemon, kBusDaemonPath)) {}

void Front::apply(const core::Change& change) {
  snapshot_ = change.snapshot;
  tree_.apply(change);
  if (change.kind != core::Change::Kind::Job) return;
  auto id = static_cast<std::uint32_t>(std::strtoul(change.id.c_str(), nullptr, 10));
  // At once: the next change may remove the object that was called.
  if (auto waiting = newJobs_.extract(id)) waiting.mapped().sendNow(id, sdbus::ObjectPath(jobPath(id)));
}

// ---- who calls

void Front::authorise(const std::string& sender, std::function<void(Status)> then) {
  attempt("ask who calls", [&] {
    busDaemon_->callMethodAsync("GetConnectionCredentials")
        .onInterface(kBusDaemon)
        .withArguments(sender)
        .uponReplyInvoke([this, sender, then](AsyncError error, const VariantMap& credentials) {
          then(judgeCaller(sender, error, credentials));
        });
  });
}

Status Front::judgeCaller(const std::string& sender, const AsyncError& error, const VariantMap& credentials) {
  if (error) return Error(Code::AccessDenied, "the bus does not say who " + sender + " is: " + error->getMessage());
  auto pid = option<std::uint32_t>(credentials, "ProcessID");
  if (!pid || !*pid || **pid == 0) return Error(Code::AccessDenied, "the bus does not know the process of " + sender);
  auto sandboxed = core_.sandboxed(static_cast<pid_t>(**pid));
  if (!sandboxed)
    return std::move(sandboxed)
        .error()
        .wrap(fmt::format("look at process {} of {}", **pid, sender))
        .as(Code::AccessDenied);
  if (*sandboxed)
    return Error(Code::SandboxedCaller,
                 fmt::format("process {} of {} is in an application sandbox, which may only look", **pid, sender));
  return {};
}

template <typename ReplyType>
void Front::withPod(const ReplyType& reply, const std::string& id, const std::string& sender, const VariantMap& options,
                    std::function<void()> action) {
  auto force = flag(options, "force-managed");
  if (!force) return reply.fail(std::move(force).error());
  authorise(sender, [this, reply, id, force = *force, action = std::move(action)](Status allowed) {
    if (!allowed) return reply.fail(std::move(allowed).error());
    auto pod = snapshot_->pod(id);
    if (!pod) return reply.fail(std::move(pod).error());
    if (auto status = managedCheck((*pod)->origin, force, "pod", id); !status)
      return reply.fail(std::move(status).error());
    action();
  });
}

template <typename ReplyType>
void Front::withContainer(const ReplyType& reply, const std::string& id, const std::string& sender,
                          const VariantMap& options, std::function<void(const ContainerRecord&)> action) {
  auto force = flag(options, "force-managed");
  if (!force) return reply.fail(std::move(force).error());
  authorise(sender, [this, reply, id, force = *force, action = std::move(action)](Status allowed) {
    if (!allowed) return reply.fail(std::move(allowed).error());
    auto container = snapshot_->container(id);
    if (!container) return reply.fail(std::move(container).error());
    if (auto status = managedCheck((*container)->origin, force, "container", id); !status)
      return reply.fail(std::move(status).error());
    action(**container);
  });
}

void Front::answerWithJob(const JobReply& reply, std::uint32_t id) {
  newJobs_.emplace(id, reply);
}

// ---- Manager

void Front::getPod(const PathReply& reply, const std::string& key) {
  auto pod = snapshot_->pod(key);
  if (!pod) return reply.fail(std::move(pod).error());
  reply.send(sdbus::ObjectPath(podPath((*pod)->id)));
}

void Front::getContainer(const PathReply& reply, const std::string& key) {
  auto container = snapshot_->container(key);
  if (!container) return reply.fail(std::move(container).error());
  if (!isShown(**container))
    return reply.fail(Error(Code::NoSuchContainer, "container " + (*container)->id + " is still being made"));
  reply.send(sdbus::ObjectPath(containerPath((*container)->id)));
}

void Front::getImage(const PathReply& reply, const std::string& reference) {
  if (reference.empty()) return reply.fail(Error(Code::InvalidArgument, "image reference is empty"));
  auto image = core_.findImage(reference);
  if (!image) return reply.fail(Error(Code::NoSuchImage, "no image " + reference + "; PullImage fetches one"));
  reply.send(sdbus::ObjectPath(imagePath(image->id)));
}

void Front::listPods(const ListReply& reply, const VariantMap& options) {
  auto filter = Filter::parse(options, propertyNames<PodView>(), podStates());
  if (!filter) return reply.fail(std::move(filter).error());
  reply.send(tree_.listPods(*filter));
}

void Front::listContainers(const ListReply& reply, const VariantMap& options) {
  auto filter = Filter::parse(options, propertyNames<ContainerView>(), containerStates());
  if (!filter) return reply.fail(std::move(filter).error());
  auto pod = option<sdbus::ObjectPath>(options, "pod");
  if (!pod) return reply.fail(std::move(pod).error());
  if (*pod) filter->pod = **pod;
  reply.send(tree_.listContainers(*filter));
}

void Front::listImages(const ListReply& reply, const VariantMap& options) {
  auto filter = Filter::parse(options, propertyNames<ImageView>(), {});
  if (!filter) return reply.fail(std::move(filter).error());
  reply.send(tree_.listImages(*filter));
}

void Front::pullImage(const JobReply& reply, const std::string& reference, const std::string& sender,
                      const VariantMap& options) {
  auto username = option<std::string>(options, "username");
  if (!username) return reply.fail(std::move(username).error());
  auto password = option<std::string>(options, "password");
  if (!password) return reply.fail(std::move(password).error());
  auto token = option<std::string>(options, "identity-token");
  if (!token) return reply.fail(std::move(token).error());
  if (reference.empty()) return reply.fail(Error(Code::InvalidArgument, "image reference is empty"));
  if (*token && (*username || *password))
    return reply.fail(
        Error(Code::InvalidArgument, "option \"identity-token\" stands instead of \"username\" and \"password\""));
  images::PullRequest request;
  request.reference = reference;
  request.credentials.username = username->value_or("");
  request.credentials.password = password->value_or("");
  request.credentials.identityToken = token->value_or("");
  authorise(sender, [this, reply, sender, request = std::move(request)](Status allowed) {
    if (!allowed) return reply.fail(std::move(allowed).error());
    answerWithJob(reply, core_.pullImageJob(request, sender));
  });
}

void Front::pruneImages(const JobReply& reply, const std::string& sender, const VariantMap& options) {
  auto all = flag(options, "all");
  if (!all) return reply.fail(std::move(all).error());
  auto dryRun = flag(options, "dry-run");
  if (!dryRun) return reply.fail(std::move(dryRun).error());
  authorise(sender, [this, reply, sender, prune = core::PruneOptions{*all, *dryRun}](Status allowed) {
    if (!allowed) return reply.fail(std::move(allowed).error());
    answerWithJob(reply, core_.pruneImagesJob(prune, sender));
  });
}

void Front::check(const JobReply& reply, const std::string& sender, const VariantMap& options) {
  auto repair = flag(options, "repair");
  if (!repair) return reply.fail(std::move(repair).error());
  auto deep = flag(options, "deep");
  if (!deep) return reply.fail(std::move(deep).error());
  authorise(sender, [this, reply, sender, check = core::CheckOptions{*repair, *deep}](Status allowed) {
    if (!allowed) return reply.fail(std::move(allowed).error());
    answerWithJob(reply, core_.checkJob(check, sender));
  });
}

void Front::diagnose(const Reply<std::vector<CheckRow>>& reply) {
  core_.diagnose([reply](std::vector<Check> checks) {
    std::vector<CheckRow> rows;
    for (const auto& check : checks) {
      std::vector<std::string> hints;
      for (const auto& hint : check.hints) hints.push_back(cleanText(hint));
      rows.emplace_back(check.name, std::string(severityName(check.severity)), cleanText(check.message),
                        std::move(hints));
    }
    reply.send(std::move(rows));
  });
}

void Front::reload(const Reply<VariantMap>& reply, const std::string& sender) {
  authorise(sender, [this, reply](const Status& allowed) {
    if (!allowed) return reply.fail(allowed.error());
    core_.reload([reply](Result<core::Reloaded> reloaded) {
      if (!reloaded) return reply.fail(reloaded.error());
      auto names = [](const std::vector<Changed>& changes) {
        std::vector<std::string> list;
        for (const auto& change : changes) list.push_back(change.key);
        return sdbus::Variant(list);
      };
      reply.send(VariantMap{{"taken", names(reloaded->taken)}, {"waiting", names(reloaded->waiting)}});
    });
  });
}

void Front::getNetwork(const Reply<VariantMap>& reply) {
  core_.networkView([reply, &core = core_](const network::NetworkView& view) {
    reply.send(networkMap(view, *core.snapshot(), core.settings()->hostLoopback));
  });
}

// ---- Pod

void Front::stopPod(const JobReply& reply, const std::string& id, const std::string& sender,
                    const VariantMap& options) {
  withPod(reply, id, sender, options, [this, reply, id, sender] {
    answerWithJob(reply, core_.job("stop-pod", id, sender, [&core = core_, id](core::DoneCallback done) {
      core.stopPod(id, std::move(done));
    }));
  });
}

void Front::removePod(const JobReply& reply, const std::string& id, const std::string& sender,
                      const VariantMap& options) {
  withPod(reply, id, sender, options, [this, reply, id, sender] {
    answerWithJob(reply, core_.job("remove-pod", id, sender, [&core = core_, id](core::DoneCallback done) {
      core.removePod(id, std::move(done));
    }));
  });
}

// ---- Container

void Front::startContainer(const Reply<>& reply, const std::string& id, const std::string& sender,
                           const VariantMap& options) {
  withContainer(reply, id, sender, options,
                [this, reply, id](const ContainerRecord&) { core_.startContainer(id, doneReply(reply)); });
}

void Front::pauseContainer(const Reply<>& reply, const std::string& id, bool pause, const std::string& sender,
                           const VariantMap& options) {
  withContainer(reply, id, sender, options, [this, reply, id, pause](const ContainerRecord&) {
    if (pause)
      core_.pauseContainer(id, doneReply(reply));
    else
      core_.resumeContainer(id, doneReply(reply));
  });
}

void Front::killContainer(const Reply<>& reply, const std::string& id, std::int32_t signal, const std::string& whom,
                          const std::string& sender, const VariantMap& options) {
  if (signal < 1 || signal > SIGRTMAX)
    return reply.fail(Error(Code::InvalidArgument, fmt::format("{} is no signal: 1 to {}", signal, SIGRTMAX)));
  if (whom != "main" && whom != "all")
    return reply.fail(Error(Code::InvalidArgument, "whom is " + whom + ", it must be main or all"));
  withContainer(reply, id, sender, options, [this, reply, id, signal, whole = whom == "all"](const ContainerRecord&) {
    core_.killContainer(id, signal, whole, doneReply(reply));
  });
}

void Front::stopContainer(const JobReply& reply, const std::string& id, const std::string& sender,
                          const VariantMap& options) {
  auto timeout = option<std::uint64_t>(options, "timeout-usec");
  if (!timeout) return reply.fail(std::move(timeout).error());
  auto grace = kDefaultGrace;
  if (*timeout) {
    // Rounded up: one microsecond is not zero, which kills at once.
    std::uint64_t millis = **timeout / 1000 + (**timeout % 1000 != 0 ? 1 : 0);
    if (millis > kLongestGraceMillis)
      return reply.fail(
          Error(Code::InvalidArgument, fmt::format("option \"timeout-usec\" is {}: more than a week", **timeout)));
    grace = std::chrono::milliseconds(millis);
  }
  withContainer(reply, id, sender, options, [this, reply, id, sender, grace](const ContainerRecord&) {
    answerWithJob(reply, core_.job("stop-container", id, sender, [&core = core_, id, grace](core::DoneCallback done) {
      core.stopContainer(id, grace, std::move(done));
    }));
  });
}

void Front::removeContainer(const JobReply& reply, const std::string& id, const std::string& sender,
                            const VariantMap& options) {
  auto force = flag(options, "force");
  if (!force) return reply.fail(std::move(force).error());
  withContainer(reply, id, sender, options, [this, reply, id, sender, force = *force](const ContainerRecord& record) {
    if (!force && record.state == ContainerRecord::State::Running)
      return reply.fail(
          Error(Code::InvalidState, "container " + id + " runs; stop it first, or set the option \"force\" to true"));
    answerWithJob(reply, core_.job("remove-container", id, sender, [&core = core_, id](core::DoneCallback done) {
      core.removeContainer(id, std::move(done));
    }));
  });
}

// ---- Image

void Front::removeImage(const JobReply& reply, const std::string& id, const std::string& sender) {
  authorise(sender, [this, reply, id, sender](Status allowed) {
    if (!allowed) return reply.fail(std::move(allowed).error());
    if (!core_.findImage(id)) return reply.fail(Error(Code::NoSuchImage, "image " + id + " is gone"));
    for (const auto& container : snapshot_->containers)
      if (usesImage(*container, id)) return reply.fail(core::imageBusy(id, *container));
    answerWithJob(reply, core_.job("remove-image", id, sender, [&core = core_, id](core::DoneCallback done) {
      core.removeImage(id, std::move(done));
    }));
  });
}

void Front::imageText(const Reply<std::string>& reply, const std::string& id, std::string ImageRecord::* text) {
  core_.imageDocuments(id, [reply, text](Result<ImageRecord> documents) {
    if (!documents) return reply.fail(std::move(documents).error());
    reply.send(cleanText((*documents).*text));
  });
}

// ---- Job

void Front::cancelJob(const Reply<>& reply, std::uint32_t id, const std::string& sender) {
  authorise(sender, [this, reply, id](Status allowed) {
    if (allowed) allowed = core_.cancelJob(id);
    doneReply(reply)(std::move(allowed));
  });
}

void Front::waitJob(const Reply<VariantMap>& reply, std::uint32_t id) {
  core_.waitJob(id, [reply](Result<std::shared_ptr<const core::JobRecord>> over) {
    if (!over) return reply.fail(std::move(over).error());
    const core::JobRecord& record = **over;
    if (record.error) return reply.fail(*record.error);
    reply.send(jobResult(makeJobView(record).result));
  });
}

}  // namespace userpod::bus
