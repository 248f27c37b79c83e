#include "daemon/images/transfer/transfer.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "daemon/images/client/registry.hpp"
#include "daemon/images/digest.hpp"
#include "daemon/images/transfer/confine_transfer.hpp"
#include "daemon/images/transfer/messages.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr int kTellMilliseconds = 100;
constexpr std::size_t kBlock = 256U << 10;  // libcurl hands out 16 KB at most: each would wake the reader
constexpr int kDeepestIndex = 2;            // an index may hold an index, but no deeper

// One blob on its way.
struct BlobFetch {
  std::size_t number = 0;
  std::atomic<std::uint64_t> received{0};
  std::uint64_t told = 0;
  std::atomic<bool> over{false};
  std::jthread thread;
};

class Transfer {
 public:
  Transfer(Channel& channel, std::string data) : channel_(channel), places_(userPlaces()), data_(std::move(data)) {}

  Status run();

 private:
  Status tell(const Answer& answer, std::string_view body = {}) { return channel_.send(toJson(answer), body); }
  Status answer(Message message);
  Status begin(PullOrder order);
  bool areMeant(const Endpoint& endpoint) const;  // the caller's credentials, if there are any
  Status resolve();
  Result<std::pair<ResolvedName, std::string>> resolveAt(const Candidate& candidate, std::size_t endpoint);
  Result<std::unique_ptr<Registry>> openRegistry(const Endpoint& endpoint) const;
  Result<Registry*> registryAt(std::size_t endpoint);
  Status fetchConfig(const FetchConfig& fetch);
  // `received`: of the sink, so far.
  template <typename Count>
  Status download(const Descriptor& wanted, const Count& received, const std::function<Status(std::string_view)>& sink);
  void fetchBlob(const FetchBlob& fetch, UniqueFd to);
  Answer fetch(const FetchBlob& fetch, const UniqueFd& to, BlobFetch& blob);
  Status tellReceived();

  Channel& channel_;
  const Places places_;
  const std::string data_;
  PullOrder order_;
  // By host and path of an endpoint. Looked up before anybody is asked: the user's helpers are programs, and none can
  // be started afterwards.
  std::map<std::pair<std::string, std::string>, Result<Credentials>> credentials_;
  Candidate found_;          // the candidate whose manifest was found
  std::size_t foundAt_ = 0;  // the endpoint that has it
  std::mutex opening_;
  std::map<std::size_t, std::unique_ptr<Registry>> registries_;  // by endpoint of it; guarded by opening_
  std::stop_source stop_;
  std::list<BlobFetch> blobs_;  // last: their threads use the rest
};

Status Transfer::run() {
  struct Stopper {
    std::stop_source& stop;
    ~Stopper() { stop.request_stop(); }
  } stopper{stop_};
  for (;;) {
    pollfd entry{channel_.fd(), POLLIN, 0};
    int ready = ::poll(&entry, 1, blobs_.empty() ? -1 : kTellMilliseconds);
    if (ready < 0 && errno != EINTR) return sysError("wait for the daemon");
    if (ready == 0) USERPOD_CHECK(tellReceived());
    blobs_.remove_if([](const BlobFetch& blob) { return blob.over.load(); });
    if (ready <= 0) continue;
    USERPOD_TRY(message, channel_.receive());
    if (!message) return {};
    USERPOD_CHECK(answer(std::move(*message)));
  }
}

Status Transfer::answer(Message message) {
  USERPOD_TRY(request, parseRequest(message.head));
  if (auto* order = std::get_if<PullOrder>(&request)) {
    if (auto begun = begin(std::move(*order)); !begun) return tell(Failed{std::move(begun).error()});
    return resolve();
  }
  if (found_.endpoints.empty())
    return Error(Code::Internal, "a pull's blobs are asked for before its name is resolved");
  if (const auto* config = std::get_if<FetchConfig>(&request)) return fetchConfig(*config);
  fetchBlob(std::get<FetchBlob>(request), std::move(message.fd));
  return {};
}

Status Transfer::begin(PullOrder order) {
  if (!order_.candidates.empty()) return Error(Code::Internal, "a pull is ordered twice");
  order_ = std::move(order);
  for (const auto& candidate : order_.candidates)
    for (const auto& endpoint : candidate.endpoints)
      if (std::pair key(endpoint.host, endpoint.path); !areMeant(endpoint) && !credentials_.contains(key))
        credentials_.emplace(key, findCredentials(places_, endpoint.host, endpoint.path));
  return confineTransfer(places_.runtime, data_);
}

// What the caller gave is for the registry it named: by address, else by the image's name. A short name that several
// registries may complete names none; who gives credentials for one takes it for Docker Hub's.
bool Transfer::areMeant(const Endpoint& endpoint) const {
  const Credentials& credentials = order_.credentials;
  if (credentials.empty()) return false;
  if (!credentials.serverAddress.empty()) return credentials.serverAddress == endpoint.host;
  return !endpoint.mirror && (order_.candidates.size() == 1 || endpoint.host == "docker.io");
}

Result<std::unique_ptr<Registry>> Transfer::openRegistry(const Endpoint& endpoint) const {
  Credentials credentials = order_.credentials;
  if (!areMeant(endpoint)) {
    USERPOD_TRY(found, credentials_.at({endpoint.host, endpoint.path}));
    credentials = std::move(found);
  }
  return std::make_unique<Registry>(endpoint, std::move(credentials), places_, stop_.get_token(),
                                    ClientOptions{.stallSeconds = static_cast<unsigned>(order_.stallSeconds)});
}

Result<Registry*> Transfer::registryAt(std::size_t endpoint) {
  std::lock_guard lock(opening_);
  auto& slot = registries_[endpoint];
  if (!slot) {
    USERPOD_TRY(opened, openRegistry(found_.endpoints[endpoint]));
    slot = std::move(opened);
  }
  return slot.get();
}

Result<std::pair<ResolvedName, std::string>> Transfer::resolveAt(const Candidate& candidate, std::size_t endpoint) {
  const Reference& name = candidate.name;
  USERPOD_TRY(registry, openRegistry(candidate.endpoints[endpoint]));
  USERPOD_TRY(fetched, registry->manifest(name.digest.empty() ? name.tag : name.digest));
  std::string digest = fetched.digest;
  USERPOD_TRY(manifest, parseManifest(fetched.document, fetched.contentType));
  for (int depth = 0; manifest.kind == Manifest::Kind::Index; ++depth) {
    if (depth == kDeepestIndex) return Error(Code::ImageInvalid, "lists of lists of lists of images");
    USERPOD_TRY(chosen, choosePlatform(manifest, hostPlatform()));
    USERPOD_TRY(inner, registry->manifest(chosen.digest));
    fetched = std::move(inner);
    USERPOD_TRY(parsed, parseManifest(fetched.document, fetched.contentType));
    manifest = std::move(parsed);
  }
  found_ = candidate;
  foundAt_ = endpoint;
  registries_[endpoint] = std::move(registry);
  return std::pair(ResolvedName{name, std::move(digest), std::move(fetched.digest), std::move(fetched.contentType)},
                   std::move(fetched.document));
}

// Each candidate's endpoints in order. Who was asked in vain is told in that order too; the last one's failure is the
// kind of the whole.
Status Transfer::resolve() {
  std::optional<Error> failure;
  std::string texts;
  for (const auto& candidate : order_.candidates)
    for (std::size_t endpoint = 0; endpoint < candidate.endpoints.size(); ++endpoint) {
      auto resolved = resolveAt(candidate, endpoint);
      if (resolved) return tell(resolved->first, resolved->second);
      failure = std::move(resolved).error();
      texts += (texts.empty() ? "" : "; then ") + failure->text();
    }
  if (!failure) return tell(Failed{Error(Code::Internal, "a pull without a registry to ask")});
  return tell(Failed{Error(failure->code(), std::move(texts), failure->sysErrno())});
}

// From the endpoint that has the manifest, then from those after it: a mirror need not have all of an image. Nobody
// else is asked once bytes have been received: they are on their way.
template <typename Count>
Status Transfer::download(const Descriptor& wanted, const Count& received,
                          const std::function<Status(std::string_view)>& sink) {
  std::optional<Error> failure;
  std::string texts;
  for (std::size_t endpoint = foundAt_; endpoint < found_.endpoints.size(); ++endpoint) {
    auto registry = registryAt(endpoint);
    auto status = registry ? (*registry)->blob(wanted, stop_.get_token(), sink) : Status(registry.error());
    if (status || received != 0 || status.error().code() == Code::Canceled) return status;
    failure = std::move(status).error();
    texts += (texts.empty() ? "" : "; then ") + failure->text();
  }
  return Error(failure->code(), std::move(texts), failure->sysErrno());
}

Status Transfer::fetchConfig(const FetchConfig& fetch) {
  std::string config;
  std::uint64_t received = 0;
  auto status = download(fetch.descriptor, received, [&](std::string_view bytes) -> Status {
    received += bytes.size();
    config += bytes;
    return {};
  });
  if (!status) return tell(Failed{std::move(status).error()});
  if (sha256Digest(config) != fetch.descriptor.digest)
    return tell(Failed{Error(Code::DigestMismatch,
                             fmt::format("the blob {} arrived as {}", fetch.descriptor.digest, sha256Digest(config)))});
  return tell(FetchedConfig{}, config);
}

Answer Transfer::fetch(const FetchBlob& fetch, const UniqueFd& to, BlobFetch& blob) {
  Sha256 sum;
  bool readerGone = false;
  std::string block;
  auto pass = [&]() -> Status {
    auto written = writeAll(to.get(), block);
    readerGone = !written;
    block.clear();
    return written;
  };
  auto sink = [&](std::string_view bytes) -> Status {
    sum.update(bytes);
    blob.received += bytes.size();
    block += bytes;
    return block.size() < kBlock ? Status() : pass();
  };
  const auto& wanted = fetch.descriptor;
  auto status = download(wanted, blob.received, sink);
  // A foreign layer need not be where the image is; a registry that has it spares others the question.
  if (!status && status.error().code() == Code::ManifestUnknown && !wanted.urls.empty() && blob.received == 0) {
    auto registry = registryAt(foundAt_);
    if (registry) status = (*registry)->externalBlob(wanted.urls, wanted, stop_.get_token(), sink);
  }
  if (status) status = pass();
  if (!status) return FailedBlob{fetch.number, std::move(status).error(), readerGone};
  if (auto digest = sum.digest(); digest != fetch.descriptor.digest)
    return FailedBlob{fetch.number, Error(Code::DigestMismatch,
                                          fmt::format("the blob {} arrived as {}", fetch.descriptor.digest, digest))};
  return FetchedBlob{fetch.number};
}

void Transfer::fetchBlob(const FetchBlob& wanted, UniqueFd to) {
  BlobFetch& blob = blobs_.emplace_back();
  blob.number = wanted.number;
  blob.thread = std::jthread([this, wanted, to = std::move(to), &blob]() mutable {
    Answer answer = fetch(wanted, to, blob);
    // The verdict is told before the reader sees the end. A daemon that is gone closes the channel, which ends all.
    (void)tell(answer);
    to.reset();
    blob.over = true;
  });
}

Status Transfer::tellReceived() {
  Received received;
  for (auto& blob : blobs_) {
    std::uint64_t now = blob.received;
    if (now != blob.told) received.blobs.emplace_back(blob.number, now);
    blob.told = now;
  }
  return received.blobs.empty() ? Status() : tell(received);
}

}  // namespace

Status serveTransfer(Channel& channel, const std::string& data) {
  return Transfer(channel, data).run();
}

}  // namespace userpod::images
