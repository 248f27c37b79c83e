#include "daemon/images/puller.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>

#include "daemon/images/digest.hpp"
#include "daemon/images/layer_fetches.hpp"
#include "daemon/images/pull_progress.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

// A stop token as something that poll(2) waits for.
class StopFd {
 public:
  explicit StopFd(const std::stop_token& stop) : fd_(::eventfd(0, EFD_CLOEXEC)), callback_(stop, Wake{fd_.get()}) {}
  int get() const { return fd_.get(); }

 private:
  struct Wake {
    int fd;
    void operator()() const {
      std::uint64_t one = 1;
      (void)!::write(fd, &one, sizeof one);
    }
  };
  UniqueFd fd_;
  std::stop_callback<Wake> callback_;
};

class Pull {
 public:
  Pull(const PullContext& context, const PullRequest& request)
      : context_(context), request_(request), progress_(request.progress), stop_(request.stop) {}

  Result<ImageRecord> run();

 private:
  Status resolve();
  Result<std::pair<Answer, std::string>> ask(const Request& request);
  Status describe();
  Status describeImage();
  Status fetchLayers();
  Status convertSchema1(const std::map<std::string, std::string>& layers);
  std::vector<WantedLayer> layers() const;

  const PullContext& context_;
  const PullRequest& request_;
  Progress progress_;
  StopFd stop_;
  TransferProcess transfer_;
  ResolvedName resolved_;
  Manifest manifest_;
  ImageRecord image_;
};

// The answer and its body.
Result<std::pair<Answer, std::string>> Pull::ask(const Request& request) {
  USERPOD_CHECK(transfer_.channel->send(toJson(request)));
  for (;;) {
    pollfd entries[] = {{stop_.get(), POLLIN, 0}, {transfer_.channel->fd(), POLLIN, 0}};
    if (::poll(entries, 2, -1) < 0 && errno != EINTR) return sysError("wait for the registry");
    if (entries[0].revents != 0) return Error(Code::Canceled, "canceled");
    if (entries[1].revents == 0) continue;
    USERPOD_TRY(message, transfer_.channel->receive());
    if (!message) return Error(Code::Internal, "the process that asks the registry has ended; see its log");
    USERPOD_TRY(answer, parseAnswer(message->head));
    if (auto* failed = std::get_if<Failed>(&answer)) return std::move(failed->error);
    return std::pair(std::move(answer), std::move(message->body));
  }
}

Status Pull::resolve() {
  USERPOD_TRY(reference, parseReference(request_.reference));
  USERPOD_TRY(registries, context_.registries.current());
  USERPOD_TRY(candidates, registries->candidates(reference));
  USERPOD_TRY(transfer, startTransfer(context_.programs));
  transfer_ = std::move(transfer);
  USERPOD_TRY(answer, ask(PullOrder{std::move(candidates), request_.credentials, context_.settings.pullStallTimeout}));
  auto* resolved = std::get_if<ResolvedName>(&answer.first);
  if (resolved == nullptr) return Error(Code::Internal, "the process that asks the registry says what nobody asked");
  resolved_ = std::move(*resolved);
  image_.manifest = std::move(answer.second);
  if (sha256Digest(image_.manifest) != resolved_.manifestDigest)
    return Error(Code::DigestMismatch, "the manifest that arrived is not " + resolved_.manifestDigest);
  USERPOD_TRY(manifest, parseManifest(image_.manifest, resolved_.contentType));
  manifest_ = std::move(manifest);
  if (manifest_.kind == Manifest::Kind::Index) return Error(Code::Internal, "a list of images instead of one");
  return {};
}

// All that is known before the layers are here.
Status Pull::describe() {
  image_.manifestDigest = resolved_.manifestDigest;
  image_.manifestAnnotations = manifest_.annotations;
  image_.createdAt = nowNanos();
  if (resolved_.name.digest.empty()) image_.repoTags.push_back(resolved_.name.tagged());
  image_.repoDigests.push_back(resolved_.name.digested(resolved_.digest));
  switch (manifest_.kind) {
    case Manifest::Kind::Artifact:
      image_.id = resolved_.manifestDigest;
      readArtifact(manifest_, image_);
      return {};
    case Manifest::Kind::Schema1:
      logWarning("{}: its manifest is Docker schema 1, which is deprecated: push the image anew",
                 ofImage(resolved_.name.repository()));
      return {};
    default:
      return describeImage();
  }
}

Status checkPlatform(const ImageRecord& image, const std::string& repository) {
  Platform host = hostPlatform();
  if (!image.os.empty() && image.os != host.os)
    return Error(Code::PlatformUnavailable, fmt::format("the image is for {}, not {}", image.os, host.os));
  if (!image.architecture.empty() && image.architecture != host.architecture)
    logWarning("{} is for {}, this machine is {}", ofImage(repository), image.architecture, host.architecture);
  return {};
}

Status Pull::describeImage() {
  image_.id = manifest_.config.digest;
  auto documents = context_.known(image_.id) ? context_.pool.documents(image_.id)
                                             : Result<ImageRecord>(Error(Code::NoSuchImage, "not here"));
  if (documents) {
    image_.config = std::move(documents->config);
  } else {
    USERPOD_TRY(answer, ask(FetchConfig{manifest_.config}));
    image_.config = std::move(answer.second);
    // Verified there, too; but the store's ids shall not depend on a process that talks to others.
    if (sha256Digest(image_.config) != image_.id)
      return Error(Code::DigestMismatch, "the image config that arrived is not " + image_.id);
  }
  USERPOD_CHECK(readConfig(image_.config, image_));
  if (image_.diffIds.size() != manifest_.layers.size())
    return Error(Code::ImageInvalid, fmt::format("the config lists {} DiffIDs for {} layers", image_.diffIds.size(),
                                                 manifest_.layers.size()));
  return checkPlatform(image_, resolved_.name.repository());
}

// In the manifest's order. The layers of schema 1 are known by their blobs alone, unless they have been here before.
std::vector<WantedLayer> Pull::layers() const {
  std::vector<WantedLayer> found;
  for (std::size_t i = 0; i < manifest_.layers.size(); ++i) {
    const auto& descriptor = manifest_.layers[i];
    switch (manifest_.kind) {
      case Manifest::Kind::Artifact:
        found.push_back({descriptor, image_.diffIds[i], artifactFile(descriptor)});
        break;
      case Manifest::Kind::Schema1:
        found.push_back({descriptor, context_.pool.layerOf(descriptor.digest), {}});
        break;
      default:
        found.push_back({descriptor, image_.diffIds[i], {}});
    }
  }
  return found;
}

Status Pull::convertSchema1(const std::map<std::string, std::string>& layers) {
  std::vector<std::string> diffIds;
  for (const auto& layer : manifest_.layers) {
    auto found = layers.find(layer.digest);
    if (found == layers.end()) return Error(Code::Internal, fmt::format("layer {} was not fetched", layer.digest));
    diffIds.push_back(found->second);
  }
  USERPOD_TRY(config, schema1Config(image_.manifest, diffIds));
  image_.config = std::move(config);
  image_.id = sha256Digest(image_.config);
  USERPOD_CHECK(readConfig(image_.config, image_));
  return checkPlatform(image_, resolved_.name.repository());
}

// What its lease is for.
std::string leaseName(const WantedLayer& layer) {
  return layer.diffId.empty() ? LayerPool::blobLease(layer.descriptor.digest) : layer.diffId;
}

// Whether it speaks against the image itself: another pull of it would fail alike.
bool isImagesFault(Code code) {
  return code == Code::DigestMismatch || code == Code::ImageInvalid || code == Code::LimitsExceeded ||
         code == Code::SubIdMissing || code == Code::NotSupported;
}

Status Pull::fetchLayers() {
  auto wanted = layers();
  std::set<std::string> names;
  std::map<std::string, std::string> layerOfBlob;
  for (const auto& layer : wanted) {
    names.insert(leaseName(layer));
    if (!layer.diffId.empty()) layerOfBlob[layer.descriptor.digest] = layer.diffId;
  }
  USERPOD_TRY(lease, context_.pool.lease(names, request_.stop));
  LayerFetches fetches(
      {context_.programs, context_.settings, context_.pool, *transfer_.channel, progress_, stop_.get()});
  std::set<std::string> added;
  for (auto& layer : wanted) {
    const std::string& blob = layer.descriptor.digest;
    // Another pull of schema 1 may have told meanwhile what the blob becomes.
    if (layer.diffId.empty())
      if (auto known = context_.pool.layerOf(blob); !known.empty()) layerOfBlob[blob] = known;
    std::string name = leaseName(layer);
    bool here = layer.diffId.empty() && layerOfBlob.contains(blob);
    if (!here && lease.missing().contains(name) && added.insert(name).second) fetches.add(std::move(layer));
  }
  progress_.stage("downloading");
  if (auto fetched = fetches.run(); !fetched) {
    if (isImagesFault(fetched.error().code())) lease.forget();
    return fetched;
  }
  // Nothing is asked for any more: the connections need not wait for the disk.
  transfer_ = {};
  if (request_.stop.stop_requested()) return Error(Code::Canceled, "canceled");
  if (manifest_.kind == Manifest::Kind::Schema1) {
    for (const auto& [blob, layer] : fetches.layers()) layerOfBlob[blob] = layer;
    USERPOD_CHECK(convertSchema1(layerOfBlob));
  }
  progress_.stage("committing");
  reachStage("pull.fetched", image_.id);
  USERPOD_TRY(committed, context_.commit(std::move(image_)));
  image_ = std::move(committed);
  return {};
}

Result<ImageRecord> Pull::run() {
  progress_.stage("resolving");
  USERPOD_CHECK(resolve());
  reachStage("pull.resolved", resolved_.manifestDigest);
  USERPOD_CHECK(describe());
  USERPOD_CHECK(fetchLayers());
  progress_.stage("done");
  return std::move(image_);
}

}  // namespace

Result<ImageRecord> pullImage(const PullContext& context, const PullRequest& request) {
  auto pulled = Pull(context, request).run();
  if (!pulled) return std::move(pulled).error().wrap("pull " + request.reference);
  return pulled;
}

}  // namespace userpod::images
