// The configuration in step with its files. By stat and not by inotify: instances of that are few for one user, and
// files come and go by renames of directories above them.
#include <mutex>
#include <optional>

#include "daemon/images/registries/registries.hpp"
#include "daemon/images/registries/sources.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr std::chrono::milliseconds kLookEvery{250};

}  // namespace

struct RegistriesFiles::State {
  explicit State(Places where) : places(std::move(where)) {}

  void take(Result<std::shared_ptr<const Registries>> read) {
    if (!read) {
      if (!failure || failure->text() != read.error().text())
        logError("{}{}", read.error(), good ? "; what was read before stays in force" : "");
      failure = std::move(read).error();
      return;
    }
    good = std::move(*read);
    failure.reset();
    for (const auto& warning : good->warnings()) logWarning("{}", warning);
  }

  void look() {
    auto now = nowNanos();
    auto sources = findSources(places);
    if (!sources) {
      signature.reset();
      return take(std::move(sources).error());
    }
    // A file may change again within the same tick of its file system's clock: what was young when it was read is read
    // once more. Two seconds are the coarsest of the clocks.
    constexpr std::int64_t kTick = 2'000'000'000;
    bool young = sources->newest > now - kTick;
    if (signature == sources->signature && settled) return;
    auto before = std::exchange(signature, sources->signature);
    auto read = readSources(*sources);
    settled = !young;
    if (before == signature && read && good && !failure) {
      good = std::move(*read);  // read again to be sure: told already
      return;
    }
    take(std::move(read));
  }

  const Places places;
  std::mutex mutex;
  std::chrono::steady_clock::time_point nextLook;
  std::optional<std::string> signature;  // of what was read last
  bool settled = false;
  std::shared_ptr<const Registries> good;
  std::optional<Error> failure;  // of the last reading
};

RegistriesFiles::RegistriesFiles(Places places) : state_(std::make_unique<State>(std::move(places))) {}
RegistriesFiles::~RegistriesFiles() = default;

Result<std::shared_ptr<const Registries>> RegistriesFiles::current() {
  std::lock_guard lock(state_->mutex);
  auto now = std::chrono::steady_clock::now();
  if (now >= state_->nextLook) {
    state_->nextLook = now + kLookEvery;
    state_->look();
  }
  if (state_->failure && !state_->good) return *state_->failure;
  return state_->good;
}

}  // namespace userpod::images
