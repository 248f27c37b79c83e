#include "userns/uplink.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod {
namespace {

constexpr std::chrono::milliseconds kShortestDelay{100};
constexpr std::chrono::milliseconds kLongestDelay{10000};
constexpr std::chrono::seconds kProvenAfter{10};  // an uplink that lived this long starts again at the shortest delay
constexpr std::size_t kKeptText = 2048;

std::string stateFile(const Paths& paths) {
  return paths.nodeState() + "/uplink.json";
}

std::string_view phaseName(UplinkState::Phase phase) {
  switch (phase) {
    case UplinkState::Phase::Up:
      return "up";
    case UplinkState::Phase::None:
      return "none";
    default:
      return "down";
  }
}

// The last line is the one that says why.
std::string lastLine(std::string_view text) {
  text = trim(text);
  auto start = text.rfind('\n');
  return std::string(start == std::string_view::npos ? text : text.substr(start + 1));
}

}  // namespace

UplinkState readUplinkState(const Paths& paths) {
  auto text = readFile(stateFile(paths), 16 << 10);
  if (!text) return {UplinkState::Phase::Down, "the node has no uplink state: " + text.error().text()};
  auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object() || !json.contains("state") || !json["state"].is_string())
    return {UplinkState::Phase::Down, stateFile(paths) + " is damaged; restart userpod-node.service"};
  UplinkState state;
  if (json["state"] == "up") state.phase = UplinkState::Phase::Up;
  if (json["state"] == "none") state.phase = UplinkState::Phase::None;
  auto read = [&](const char* key, std::string& target) {
    if (json.contains(key) && json[key].is_string()) target = json[key];
  };
  read("reason", state.reason);
  read("program", state.program);
  read("choice", state.choice);
  return state;
}

Status writeUplinkState(const Paths& paths, const UplinkState& state) {
  nlohmann::json json = {{"state", phaseName(state.phase)},
                         {"reason", state.reason},
                         {"program", state.program},
                         {"choice", state.choice}};
  return writeFileAtomic(stateFile(paths), json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n",
                         0600);
}

void Uplink::start() {
  retry_.reset();
  if (auto status = launch(); !status) failed(status.error().text());
}

Status Uplink::launch() {
  USERPOD_TRY(ready, makePipe());
  USERPOD_TRY(exit, makePipe());
  USERPOD_TRY(messages, makePipe());
  SpawnOptions options;
  options.argv = uplinkCommand(program_, plan_);
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"};
  options.descriptors = {{messages.write.get(), 2}};
  // pasta closes all but the first three at its start.
  if (program_.name == "pasta") {
    options.descriptors.emplace_back(ready.write.get(), 1);
  } else {
    options.descriptors.insert(options.descriptors.end(),
                               {{messages.write.get(), 1}, {ready.write.get(), 3}, {exit.read.get(), 4}});
  }
  options.cgroup = cgroup_;
  options.deathSignal = SIGKILL;
  USERPOD_TRY(child, spawn(options));
  child_ = std::move(child);
  ready_ = std::move(ready.read);
  exit_ = std::move(exit.write);
  messages_ = std::move(messages.read);
  for (int fd : {ready_.get(), messages_.get()}) ::fcntl(fd, F_SETFL, O_NONBLOCK);
  text_.clear();
  up_ = false;
  return {};
}

void Uplink::addTo(std::vector<pollfd>& entries) const {
  for (int fd : {child_ ? child_.pidfd() : -1, ready_.get(), messages_.get()})
    if (fd >= 0) entries.push_back({fd, POLLIN, 0});
}

int Uplink::timeout() const {
  if (!retry_) return -1;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(*retry_ - Clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

void Uplink::handle(const std::vector<pollfd>& entries) {
  auto fired = [&](int fd) {
    return fd >= 0 && std::any_of(entries.begin(), entries.end(),
                                  [&](const pollfd& entry) { return entry.fd == fd && entry.revents != 0; });
  };
  bool died = child_ && fired(child_.pidfd());
  bool ready = fired(ready_.get());
  if (fired(messages_.get())) readMessages();
  if (ready) onReady();
  if (died) onDeath();
  if (retry_ && Clock::now() >= *retry_) start();
}

void Uplink::readMessages() {
  std::array<char, 4096> buffer{};
  for (;;) {
    ssize_t count = ::read(messages_.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) messages_.reset();
    if (count <= 0) return;
    text_.append(buffer.data(), static_cast<std::size_t>(count));
    if (text_.size() > kKeptText) text_.erase(0, text_.size() - kKeptText);
  }
}

void Uplink::onReady() {
  char byte = 0;
  ssize_t count = ::read(ready_.get(), &byte, 1);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  ready_.reset();
  if (count <= 0) return;  // its death follows and says why
  up_ = true;
  settled_ = true;
  served_ = true;
  upSince_ = Clock::now();
  logInfo("uplink is up: {}, process {}; {}", program_.path, child_.pid(), program_.reason);
  publish(UplinkState::Phase::Up, "");
}

void Uplink::publish(UplinkState::Phase phase, const std::string& reason) {
  auto status = writeUplinkState(paths_, {phase, reason, program_.path, program_.reason});
  if (!status) logWarning("{}", status.error());
}

void Uplink::setServers(const NameServers& servers) {
  if (servers == plan_.servers) return;
  plan_.servers = servers;
  if (program_.name != "pasta" || !child_) return;
  logInfo("the host's name servers have changed: pasta starts anew");
  renewing_ = true;
  (void)child_.kill(SIGTERM);
}

void Uplink::onDeath() {
  readMessages();
  auto status = child_.wait();
  ready_.reset();
  exit_.reset();
  messages_.reset();
  std::string how = !status               ? status.error().text()
                    : status->signal != 0 ? fmt::format("killed by signal {}", status->signal)
                                          : fmt::format("exit status {}", status->code);
  std::string last = status && status->signal != 0 ? std::string() : lastLine(text_);
  std::string what = fmt::format("{} ended: {}{}{}", program_.name, how, last.empty() ? "" : ": ", last);
  if (up_ && Clock::now() - upSince_ >= kProvenAfter) delay_ = kShortestDelay;
  up_ = false;
  if (std::exchange(renewing_, false)) return start();
  if (!served_ && !fallback_.path.empty()) {
    logWarning("{}; {} takes its place", what, fallback_.path);
    program_ = std::exchange(fallback_, {});
    program_.reason = what;
    return start();
  }
  failed(what);
}

void Uplink::failed(const std::string& reason) {
  logWarning("uplink is down: {}; next try in {:.1f} s", reason, static_cast<double>(delay_.count()) / 1000);
  settled_ = true;
  retry_ = Clock::now() + delay_;
  delay_ = std::min(delay_ * 2, kLongestDelay);
  publish(UplinkState::Phase::Down, reason);
}

void Uplink::stop() {
  retry_.reset();
  exit_.reset();
  if (!child_) return;
  if (program_.name == "pasta") (void)child_.kill(SIGTERM);
  auto ended = child_.waitFor(std::chrono::milliseconds(500));
  if (!ended || !*ended) child_ = Child();  // the old one is killed and reaped
}

}  // namespace userpod
