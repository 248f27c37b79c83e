#include "daemon/images/puller.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>

#include "daemon/images/layer_fetch.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kParallel = 3;  // layers at once: each has three threads

// Tells how far the pull is, at most ten times a second and at each change of stage. Any thread.
class Progress {
 public:
  explicit Progress(const std::function<void(const PullProgress&)>& report) : report_(report) {}

  void stage(const char* name) {
    std::lock_guard lock(mutex_);
    state_.stage = name;
    tell(true);
  }
  void layers(const std::vector<Descriptor>& wanted) {
    std::lock_guard lock(mutex_);
    for (const auto& layer : wanted) {
      auto size = static_cast<std::uint64_t>(layer.size);
      state_.layers.push_back({layer.digest, "waiting", 0, size});
      state_.total += size;
    }
  }
  void received(std::size_t layer, std::size_t bytes) {
    std::lock_guard lock(mutex_);
    state_.layers[layer].state = "downloading";
    state_.layers[layer].done += bytes;
    state_.done += bytes;
    tell(false);
  }
  void unpacked(std::size_t layer) {
    std::lock_guard lock(mutex_);
    state_.layers[layer].state = "unpacked";
    tell(true);
  }

 private:
  void tell(bool now) {
    using namespace std::chrono_literals;
    auto time = std::chrono::steady_clock::now();
    if (!report_ || (!now && time - last_ < 100ms)) return;
    last_ = time;
    report_(state_);
  }

  const std::function<void(const PullProgress&)>& report_;
  std::mutex mutex_;
  PullProgress state_;
  std::chrono::steady_clock::time_point last_;
};

struct Resolved {
  Reference name;
  std::unique_ptr<Registry> registry;
  std::string digest;  // of what the name led to: an index or a manifest
  FetchedManifest fetched;
  Manifest manifest;
};

Result<Resolved> resolveAt(const Endpoint& endpoint, const Reference& name, const PullRequest& request) {
  Places places = userPlaces();
  Credentials credentials = endpoint.mirror ? Credentials() : request.credentials;
  if (credentials.empty()) {
    USERPOD_TRY(found, findCredentials(places, endpoint.host, endpoint.path));
    credentials = std::move(found);
  }
  auto registry = std::make_unique<Registry>(endpoint, std::move(credentials), places, request.stop);
  USERPOD_TRY(fetched, registry->manifest(name.digest.empty() ? name.tag : name.digest));
  std::string digest = fetched.digest;
  USERPOD_TRY(manifest, parseManifest(fetched.document, fetched.contentType));
  // An index may hold an index, but no deeper.
  for (int depth = 0; manifest.isIndex; ++depth) {
    if (depth == 2) return Error(Code::ImageInvalid, "lists of lists of lists of images");
    USERPOD_TRY(chosen, choosePlatform(manifest, hostPlatform()));
    USERPOD_TRY(inner, registry->manifest(chosen.digest));
    fetched = std::move(inner);
    USERPOD_TRY(parsed, parseManifest(fetched.document, fetched.contentType));
    manifest = std::move(parsed);
  }
  return Resolved{name, std::move(registry), std::move(digest), std::move(fetched), std::move(manifest)};
}

// Each mirror, then the registry; for a short name, each search registry. The last failure is told, with the others'
// texts behind it: the caller sees what was asked.
Result<Resolved> resolve(const PullContext& context, const PullRequest& request) {
  USERPOD_TRY(parsed, parseReference(request.reference));
  USERPOD_TRY(registries, context.registries.current());
  USERPOD_TRY(candidates, registries->candidates(parsed));
  std::optional<Error> failure;
  std::string earlier;
  for (const auto& candidate : candidates)
    for (const auto& endpoint : candidate.endpoints) {
      auto resolved = resolveAt(endpoint, candidate.name, request);
      if (resolved || resolved.error().code() == Code::Canceled) return resolved;
      if (failure) earlier += fmt::format("; before that: {}", failure->text());
      failure = std::move(resolved).error();
    }
  return Error(failure->code(), fmt::format("pull {}: {}{}", request.reference, failure->text(), earlier),
               failure->sysErrno());
}

Result<ImageRecord> describe(const PullContext& context, Resolved& resolved) {
  ImageRecord image;
  image.id = resolved.manifest.config.digest;
  if (auto known = context.known(image.id)) {
    image.config = known->config;
  } else {
    USERPOD_TRY(config, resolved.registry->smallBlob(resolved.manifest.config));
    image.config = std::move(config);
  }
  USERPOD_CHECK(readConfig(image.config, image));
  if (image.diffIds.size() != resolved.manifest.layers.size())
    return Error(Code::ImageInvalid, fmt::format("the config lists {} DiffIDs for {} layers", image.diffIds.size(),
                                                 resolved.manifest.layers.size()));
  Platform host = hostPlatform();
  if (!image.os.empty() && image.os != host.os)
    return Error(Code::PlatformUnavailable, fmt::format("the image is for {}, not {}", image.os, host.os));
  if (!image.architecture.empty() && image.architecture != host.architecture)
    logWarning("{} is for {}, this machine is {}", resolved.name.repository(), image.architecture, host.architecture);
  image.manifestDigest = resolved.fetched.digest;
  image.manifest = resolved.fetched.document;
  image.manifestAnnotations = resolved.manifest.annotations;
  image.createdAt = nowNanos();
  if (resolved.name.digest.empty()) image.repoTags.push_back(resolved.name.tagged());
  image.repoDigests.push_back(resolved.name.digested(resolved.digest));
  return image;
}

// Fetches the missing layers, some at a time. The first failure stops the others.
class LayerFetches {
 public:
  LayerFetches(const PullContext& context, Registry& registry, Progress& progress, const std::stop_token& stop)
      : context_(context), registry_(registry), progress_(progress), budget_(context.settings), outer_(stop, [this] {
          stop_.request_stop();
        }) {}

  void add(const Descriptor& layer, const std::string& diffId) { wanted_.push_back({layer, diffId}); }

  Result<std::vector<LayerPool::FreshLayer>> run() {
    // The largest first: the last one decides when all are there.
    std::stable_sort(wanted_.begin(), wanted_.end(),
                     [](const LayerSource& a, const LayerSource& b) { return a.descriptor.size > b.descriptor.size; });
    std::vector<Descriptor> descriptors;
    std::uint64_t bytes = 0;
    for (const auto& layer : wanted_) {
      descriptors.push_back(layer.descriptor);
      bytes += static_cast<std::uint64_t>(layer.descriptor.size);
    }
    if (bytes > context_.pool.freeBytes())
      return Error(Code::NoSpace,
                   fmt::format("the layers have {} MB even compressed, more than is free in {}: remove images "
                               "or make room",
                               bytes >> 20, context_.pool.root()));
    progress_.layers(descriptors);
    {
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i < std::min(kParallel, wanted_.size()); ++i) threads.emplace_back([this] { work(); });
    }
    if (failure_) return *std::move(failure_);
    return std::move(fresh_);
  }

 private:
  void work() {
    for (;;) {
      std::size_t index = 0;
      {
        std::lock_guard lock(mutex_);
        if (failure_ || next_ == wanted_.size()) return;
        index = next_++;
      }
      auto layer = fetch(index);
      std::lock_guard lock(mutex_);
      if (layer) {
        fresh_.push_back(std::move(*layer));
        continue;
      }
      if (!failure_) failure_ = std::move(layer).error();
      stop_.request_stop();
      return;
    }
  }

  Result<LayerPool::FreshLayer> fetch(std::size_t index) {
    const LayerSource& layer = wanted_[index];
    USERPOD_TRY(workspace, context_.pool.makeWorkspace());
    USERPOD_TRY(extracted, fetchLayer(registry_, layer, workspace.fd(), budget_, stop_.get_token(),
                                      [&](std::size_t bytes) { progress_.received(index, bytes); }));
    reachStage("pull.unpacked", layer.diffId);
    progress_.unpacked(index);
    return LayerPool::FreshLayer{layer.diffId, std::move(workspace), extracted};
  }

  const PullContext& context_;
  Registry& registry_;
  Progress& progress_;
  UnpackBudget budget_;
  std::vector<LayerSource> wanted_;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> outer_;
  std::mutex mutex_;
  std::size_t next_ = 0;
  std::vector<LayerPool::FreshLayer> fresh_;
  std::optional<Error> failure_;
};

}  // namespace

Result<ImageRecord> pullImage(const PullContext& context, const PullRequest& request) {
  Progress progress(request.progress);
  progress.stage("resolving");
  USERPOD_TRY(resolved, resolve(context, request));
  reachStage("pull.resolved", resolved.fetched.digest);
  auto wrapped = [&](Error error) { return std::move(error).wrap("pull " + request.reference); };
  auto image = describe(context, resolved);
  if (!image) return wrapped(std::move(image).error());
  std::set<std::string> diffIds(image->diffIds.begin(), image->diffIds.end());
  auto lease = context.pool.lease(diffIds, request.stop);
  if (!lease) return wrapped(std::move(lease).error());
  LayerFetches fetches(context, *resolved.registry, progress, request.stop);
  std::set<std::string> added;
  for (std::size_t i = 0; i < image->diffIds.size(); ++i) {
    const auto& id = image->diffIds[i];
    if (lease->missing().contains(id) && added.insert(id).second) fetches.add(resolved.manifest.layers[i], id);
  }
  progress.stage("downloading");
  auto fresh = fetches.run();
  if (!fresh) return wrapped(std::move(fresh).error());
  if (request.stop.stop_requested()) return wrapped(Error(Code::Canceled, "canceled"));
  progress.stage("committing");
  reachStage("pull.fetched", image->id);
  auto committed = context.commit(std::move(*image), std::move(*fresh));
  if (!committed) return wrapped(std::move(committed).error());
  progress.stage("done");
  logMessage(Level::Info, fmt::format("pulled {}", request.reference), {{"IMAGE", committed->id}});
  return committed;
}

}  // namespace userpod::images
