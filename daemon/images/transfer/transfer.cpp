#include "daemon/images/transfer/transfer.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <list>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "daemon/images/client/registry.hpp"
#include "daemon/images/digest.hpp"
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
  explicit Transfer(Channel& channel) : channel_(channel), places_(userPlaces()) {}

  Status run();

 private:
  Status tell(const Answer& answer, std::string_view body = {}) { return channel_.send(toJson(answer), body); }
  Status answer(Message message);
  Status resolve(const PullOrder& order);
  Result<std::pair<ResolvedName, std::string>> resolveAt(const Endpoint& endpoint, const Reference& name,
                                                         const PullOrder& order);
  Status fetchConfig(const FetchConfig& fetch);
  void fetchBlob(const FetchBlob& fetch, UniqueFd to);
  Answer fetch(const FetchBlob& fetch, const UniqueFd& to, BlobFetch& blob);
  Status tellReceived();

  Channel& channel_;
  const Places places_;
  std::unique_ptr<Registry> registry_;
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
  if (const auto* order = std::get_if<PullOrder>(&request)) return resolve(*order);
  if (!registry_) return Error(Code::Internal, "a pull's blobs are asked for before its name is resolved");
  if (const auto* config = std::get_if<FetchConfig>(&request)) return fetchConfig(*config);
  fetchBlob(std::get<FetchBlob>(request), std::move(message.fd));
  return {};
}

Result<std::pair<ResolvedName, std::string>> Transfer::resolveAt(const Endpoint& endpoint, const Reference& name,
                                                                 const PullOrder& order) {
  // What the caller gave is for the registry it named: by address, else by the image's name.
  const std::string& server = order.credentials.serverAddress;
  bool meant = server.empty() ? !endpoint.mirror : server == endpoint.host;
  Credentials credentials = meant ? order.credentials : Credentials();
  if (credentials.empty()) {
    USERPOD_TRY(found, findCredentials(places_, endpoint.host, endpoint.path));
    credentials = std::move(found);
  }
  auto registry = std::make_unique<Registry>(
      endpoint, std::move(credentials), places_, stop_.get_token(),
      ClientOptions{.stallSeconds = static_cast<unsigned>(std::clamp<std::int64_t>(order.stallSeconds, 0, 1 << 30))});
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
  registry_ = std::move(registry);
  return std::pair(ResolvedName{name, std::move(digest), std::move(fetched.digest), std::move(fetched.contentType)},
                   std::move(fetched.document));
}

// Each candidate's endpoints in order. Who was asked in vain is told in that order too; the last one's failure is the
// kind of the whole.
Status Transfer::resolve(const PullOrder& order) {
  std::optional<Error> failure;
  std::string texts;
  for (const auto& candidate : order.candidates)
    for (const auto& endpoint : candidate.endpoints) {
      auto resolved = resolveAt(endpoint, candidate.name, order);
      if (resolved) return tell(resolved->first, resolved->second);
      failure = std::move(resolved).error();
      texts += (texts.empty() ? "" : "; then ") + failure->text();
    }
  if (!failure) return tell(Failed{Error(Code::Internal, "a pull without a registry to ask")});
  return tell(Failed{Error(failure->code(), std::move(texts), failure->sysErrno())});
}

Status Transfer::fetchConfig(const FetchConfig& fetch) {
  auto config = registry_->smallBlob(fetch.descriptor);
  if (!config) return tell(Failed{std::move(config).error()});
  return tell(FetchedConfig{}, *config);
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
  auto status = registry_->blob(wanted, stop_.get_token(), sink);
  // A foreign layer need not be where the image is; a registry that has it spares others the question.
  if (!status && status.error().code() == Code::ManifestUnknown && !wanted.urls.empty())
    status = registry_->externalBlob(wanted.urls, wanted, stop_.get_token(), sink);
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

Status serveTransfer(Channel& channel) {
  return Transfer(channel).run();
}

}  // namespace userpod::images
