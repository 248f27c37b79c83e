// Settings that are read again while the daemon runs.
#include <fmt/core.h>

#include "daemon/core/core_impl.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::core {
namespace {

std::string listed(const std::vector<Changed>& changes) {
  std::string text;
  for (const auto& change : changes)
    text += fmt::format("{}{} = {} (was {})", text.empty() ? "" : ", ", change.key, change.now, change.before);
  return text;
}

std::string keysOf(const std::vector<Changed>& changes) {
  std::string text;
  for (const auto& change : changes) text += (text.empty() ? "" : ", ") + change.key;
  return text;
}

// Of all that wait, the command after which nothing does.
std::string_view commandFor(const std::vector<Changed>& waiting) {
  Applies most = Applies::Daemon;
  for (const auto& change : waiting)
    if (change.applies == Applies::Node) most = Applies::Node;
  return userpod::commandFor(most);
}

}  // namespace

std::string Reloaded::text() const {
  std::string text =
      taken.empty() ? "configuration: nothing new is in force" : "configuration: in force now: " + listed(taken);
  if (!waiting.empty()) text += fmt::format("; not before `{}`: {}", commandFor(waiting), listed(waiting));
  return text;
}

// One after the other, so that what was read last is in force last. Not on the workers, which operations may keep busy
// for minutes.
void CoreImpl::reload(Callback<Reloaded> done) {
  post([this, done = std::move(done)]() mutable {
    reloads_.acquire([this, done = std::move(done)] {
      background<Configuration>(
          *statsWorkers_, [this] { return readConfiguration(parts_.paths.config); },
          [this, done](const Configuration& configuration) {
            finishReload(configuration, done);
            reloads_.release();
          });
    });
  });
}

void CoreImpl::finishReload(const Configuration& configuration, const Callback<Reloaded>& done) {
  logProblems(configuration.problems);
  if (auto status = configuration.status(); !status) {
    logError("configuration: nothing of it is taken over: {}", status.error());
    report({"Configuration", false, "ConfigInvalid", status.error().text()});
    return done(std::move(status).error());
  }
  auto before = parts_.settings.current();
  Settings next = takeOver(*before, configuration.settings);
  Reloaded reloaded{changesBetween(*before, next), changesBetween(next, configuration.settings)};
  setLogLevel(levelNamed(next.logLevel));
  bool pins = next.pinnedImages != before->pinnedImages;
  parts_.settings.replace(std::move(next));
  if (pins) {
    images_->renewPins();
    refreshImages("", false);
  }
  std::string waiting = keysOf(reloaded.waiting);
  LogFields fields;
  if (!waiting.empty()) fields.emplace_back("CONFIG_WAITING", waiting);
  logMessage(reloaded.waiting.empty() ? Level::Info : Level::Notice, reloaded.text(), fields);
  if (auto known = reported_.find("Configuration"); known != reported_.end()) report({"Configuration", true, "", ""});
  done(std::move(reloaded));
}

}  // namespace userpod::core
