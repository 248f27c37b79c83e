#include "daemon/core/pulls.hpp"

#include <utility>

namespace userpod::core {

namespace {

constexpr unsigned kPulls = 8;  // at once; the layers of all together are bounded by images/

std::string keyOf(const images::PullRequest& request) {
  const auto& with = request.credentials;
  std::string key;
  for (const auto* part : {&request.reference, &with.username, &with.password, &with.identityToken, &with.registryToken,
                           &with.serverAddress})
    key += *part + '\n';
  return key;
}

}  // namespace

Pulls::Pulls(EventLoop& strand, images::Images& images, std::function<void(const std::string& id)> arrived)
    : strand_(strand),
      images_(images),
      arrived_(std::move(arrived)),
      threads_(std::make_unique<Workers>(kPulls, "pull")) {}

Pulls::~Pulls() {
  for (auto& [key, operation] : operations_) operation->stop.request_stop();
  threads_.reset();
}

void Pulls::start(images::PullRequest request, Done done) {
  std::string key = keyOf(request);
  std::stop_token stop = request.stop;
  Waiter waiter{std::move(done), std::move(request.progress), nullptr};
  auto& slot = operations_[key];
  bool first = slot == nullptr;
  if (first) {
    slot = std::make_shared<Operation>();
    slot->key = key;
    slot->reference = request.reference;
  }
  OperationPointer operation = slot;
  std::uint64_t number = nextWaiter_++;
  auto& entry = operation->waiters.emplace(number, std::move(waiter)).first->second;
  // It is called by whoever cancels, perhaps at once.
  entry.cancelled = std::make_unique<Cancelled>(stop, [this, weak = std::weak_ptr(operation), number] {
    strand_.post([this, weak, number] {
      if (auto alive = weak.lock()) leave(alive, number);
    });
  });
  if (first) return begin(operation, std::move(request));
  if (entry.progress && operation->progress) entry.progress(*operation->progress);
}

void Pulls::begin(const OperationPointer& operation, images::PullRequest request) {
  request.stop = operation->stop.get_token();
  request.progress = [this, operation](const images::PullProgress& progress) {
    strand_.post([operation, progress] {
      operation->progress = progress;
      for (const auto& [number, waiter] : operation->waiters)
        if (waiter.progress) waiter.progress(progress);
    });
  };
  threads_->submit([this, operation, request = std::move(request)] {
    // Everybody may have left before its turn came; from here on the last one waits for the end.
    operation->begun = true;
    auto pulled = std::make_shared<Result<ImageRecord>>(
        request.stop.stop_requested() ? Error(Code::Canceled, "pull " + request.reference + ": canceled")
                                      : images_.pull(request));
    strand_.post([this, operation, pulled] { finish(operation, *pulled); });
  });
}

void Pulls::forget(const OperationPointer& operation) {
  auto found = operations_.find(operation->key);
  if (found != operations_.end() && found->second == operation) operations_.erase(found);
}

void Pulls::leave(const OperationPointer& operation, std::uint64_t waiter) {
  auto found = operation->waiters.find(waiter);
  if (found == operation->waiters.end()) return;
  if (operation->waiters.size() == 1) {
    // Who asks for the same from now on begins anew.
    forget(operation);
    operation->stop.request_stop();
    if (operation->begun) return;  // finish() tells
  }
  auto gone = operation->waiters.extract(found);
  gone.mapped().done(Error(Code::Canceled, "pull " + operation->reference + ": canceled"));
}

void Pulls::finish(const OperationPointer& operation, const Result<ImageRecord>& pulled) {
  forget(operation);
  if (pulled) arrived_(pulled->id);
  auto waiters = std::exchange(operation->waiters, {});
  for (const auto& [number, waiter] : waiters) {
    if (pulled)
      waiter.done(pulled->id);
    else
      waiter.done(pulled.error());
  }
}

}  // namespace userpod::core
