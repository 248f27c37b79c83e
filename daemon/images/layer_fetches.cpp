#include "daemon/images/layer_fetches.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "daemon/sys/log.hpp"
#include "daemon/sys/stage.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kParallel = 3;  // layers at once: two processes with three threads for each
constexpr std::int64_t kWorthWriting = 32LL << 20;
constexpr int kPipeBytes = 1 << 20;  // between the two processes of a layer; less where the user has too many

}  // namespace

Status LayerFetches::checkSpace() {
  std::uint64_t bytes = 0;
  for (const auto& layer : wanted_)
    bytes += static_cast<std::uint64_t>(std::max<std::int64_t>(layer.descriptor.size, 0));
  if (bytes <= parts_.pool.freeBytes()) return {};
  // What was dropped is removed in the background: it counts already.
  auto dropped = static_cast<std::uint64_t>(parts_.pool.dropUnfinished());
  if (bytes <= parts_.pool.freeBytes() + dropped) return {};
  return Error(Code::NoSpace, fmt::format("the layers have {} MB even compressed, more than is free in {}: remove "
                                          "images or make room",
                                          bytes >> 20, parts_.pool.root()));
}

Status LayerFetches::run() {
  if (wanted_.empty()) return {};
  // The largest first: the last one decides when all are there.
  std::stable_sort(wanted_.begin(), wanted_.end(),
                   [](const WantedLayer& a, const WantedLayer& b) { return a.descriptor.size > b.descriptor.size; });
  USERPOD_CHECK(checkSpace());
  USERPOD_TRY(counters, SharedCounters::make());
  counters_ = std::move(counters);
  for (const auto& layer : wanted_) parts_.progress.add(layer.descriptor);
  while (next_ < wanted_.size() || !active_.empty()) {
    if (auto status = step(); !status) {
      // Before anything that may wait for the disk.
      active_.clear();
      return status;
    }
  }
  return {};
}

Status LayerFetches::step() {
  while (mayBegin()) USERPOD_CHECK(begin(next_++));
  USERPOD_CHECK(wait());
  return settle();
}

bool LayerFetches::mayBegin() const {
  if (next_ == wanted_.size() || active_.size() == kParallel) return false;
  return active_.empty() || !parts_.pool.isCrowded();
}

Status LayerFetches::begin(std::size_t number) {
  const auto& layer = wanted_[number];
  USERPOD_TRY(workspace, parts_.pool.makeWorkspace());
  USERPOD_TRY(pipe, makePipe());
  (void)::fcntl(pipe.write.get(), F_SETPIPE_SZ, kPipeBytes);
  const auto& settings = parts_.settings;
  UnpackOrder order{.blob = layer.descriptor.digest,
                    .diffId = layer.diffId,
                    .file = layer.file,
                    .limits = {settings.imageSizeLimit, settings.imageEntriesLimit, settings.imageRatioLimit},
                    .options = {settings.ignoreChownErrors, parts_.pool.root()}};
  USERPOD_TRY(process, startUnpack(parts_.programs, order, pipe.read, workspace.fd(), *counters_));
  active_.push_back({.number = number,
                     .slot = parts_.pool.takeSlot(),
                     .workspace = std::move(workspace),
                     .process = std::move(process)});
  parts_.progress.begun(number);
  return parts_.channel.send(toJson(Request(FetchBlob{number, layer.descriptor})), {}, pipe.write.get());
}

Status LayerFetches::wait() {
  std::vector<pollfd> entries{{parts_.stop, POLLIN, 0}, {parts_.channel.fd(), POLLIN, 0}};
  for (const auto& active : active_)
    if (active.process.outcome) entries.push_back({active.process.outcome.get(), POLLIN, 0});
  if (::poll(entries.data(), entries.size(), -1) < 0) return errno == EINTR ? Status() : sysError("wait for layers");
  if (entries[0].revents != 0) return Error(Code::Canceled, "canceled");
  // What the registry's half says comes first, whichever was there first: it tells its verdict before an unpacker sees
  // the end of the bytes, and so whose failure is the cause.
  for (pollfd ready{parts_.channel.fd(), POLLIN, 0}; ::poll(&ready, 1, 0) > 0;) USERPOD_CHECK(hear());
  for (auto& active : active_) {
    auto entry = std::find_if(entries.begin() + 2, entries.end(),
                              [&](const pollfd& ready) { return ready.fd == active.process.outcome.get(); });
    if (entry != entries.end() && entry->revents != 0) USERPOD_CHECK(hearOutcome(active));
  }
  return {};
}

LayerFetches::Active* LayerFetches::find(std::size_t number) {
  auto found = std::find_if(active_.begin(), active_.end(), [&](const Active& one) { return one.number == number; });
  return found == active_.end() ? nullptr : &*found;
}

Status LayerFetches::hear() {
  USERPOD_TRY(message, parts_.channel.receive());
  if (!message) return Error(Code::Internal, "the process that asks the registry has ended; see its log");
  USERPOD_TRY(answer, parseAnswer(message->head));
  if (const auto* received = std::get_if<Received>(&answer)) {
    for (const auto& [number, bytes] : received->blobs)
      if (find(number) != nullptr) parts_.progress.received(number, bytes);
    return {};
  }
  if (auto* failed = std::get_if<FailedBlob>(&answer)) {
    auto* active = find(failed->number);
    // Who does not read on says why, in a moment.
    if (failed->readerGone && active != nullptr) {
      active->readerGone = true;
      return {};
    }
    return std::move(failed->error);
  }
  if (auto* failed = std::get_if<Failed>(&answer)) return std::move(failed->error);
  const auto* fetched = std::get_if<FetchedBlob>(&answer);
  auto* active = fetched == nullptr ? nullptr : find(fetched->number);
  if (active == nullptr) return Error(Code::Internal, "the process that asks the registry says what nobody asked");
  active->fetched = true;
  return {};
}

Status LayerFetches::hearOutcome(Active& active) {
  auto outcome = readOutcome(active.process);
  if (!outcome) return {};
  if (!*outcome) {
    auto error = std::move(*outcome).error();
    return error.text().starts_with("layer ")
               ? std::move(error)
               : std::move(error).wrap("layer " + wanted_[active.number].descriptor.digest);
  }
  active.unpacked = std::move(**outcome);
  return {};
}

// In the background, one at a time: another is not waited for.
void LayerFetches::writeOut() {
  if (writing_.exchange(true)) return;
  writer_ = std::jthread([this] {
    if (auto written = parts_.pool.writeOut(); !written) logError("{}", written.error());
    writing_ = false;
  });
}

// What is fetched, verified and unpacked goes to the pool.
Status LayerFetches::settle() {
  for (auto active = active_.begin(); active != active_.end();) {
    const auto& layer = wanted_[active->number];
    if (active->unpacked && active->readerGone)
      return Error(Code::Internal, fmt::format("layer {}: it was not read to its end", layer.descriptor.digest));
    if (!active->fetched || !active->unpacked) {
      ++active;
      continue;
    }
    const auto& unpacked = *active->unpacked;
    std::int64_t unpackedBytes = unpacked.extracted.bytes;
    std::string name = layer.diffId.empty() ? unpacked.diffId : layer.diffId;
    if (unpacked.extracted.squashed > 0)
      logWarning(
          "layer {}: {} files belong to owners that the node's user namespace does not have; they are root's now",
          layer.descriptor.digest, unpacked.extracted.squashed);
    reachStage("pull.unpacked", name);
    USERPOD_CHECK(parts_.pool.keep({.diffId = name,
                                    .blob = layer.descriptor.digest,
                                    .workspace = std::move(active->workspace),
                                    .extracted = unpacked.extracted}));
    layers_[layer.descriptor.digest] = name;
    parts_.progress.unpacked(active->number);
    active = active_.erase(active);
    // The commit waits for the disk: most of it is written while other layers are still on their way.
    if (unpackedBytes >= kWorthWriting && (!active_.empty() || next_ < wanted_.size())) writeOut();
  }
  return {};
}

}  // namespace userpod::images
