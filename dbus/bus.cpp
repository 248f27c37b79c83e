#include "dbus/bus.hpp"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "daemon/sys/log.hpp"
#include "dbus/front.hpp"
#include "dbus/log_control.hpp"

namespace userpod::bus {
namespace {

constexpr int kLongestRetrySeconds = 30;
// Messages handled before the core's changes get their turn.
constexpr int kMessagesAtOnce = 64;

// As long as it lives, the flag is set.
class Flagged {
 public:
  explicit Flagged(std::atomic<bool>& flag) : flag_(flag), before_(flag.exchange(true)) {}
  ~Flagged() { flag_ = before_; }
  Flagged(const Flagged&) = delete;
  Flagged& operator=(const Flagged&) = delete;

 private:
  std::atomic<bool>& flag_;
  bool before_;  // one within another
};

}  // namespace

Result<std::unique_ptr<Bus>> Bus::start(core::Core& core) {
  std::unique_ptr<Bus> bus(new Bus(core));
  USERPOD_TRY(loop, EventLoop::start("bus"));
  bus->loop_ = std::move(loop);
  auto courier = std::make_shared<Courier>(*bus->loop_, [raw = bus.get()] { raw->pump(); });
  bus->courier_ = courier;
  core.subscribe([raw = bus.get(), courier](const core::Change& change) {
    courier->post([raw, change] {
      raw->latest_ = change.snapshot;
      if (raw->front_) raw->front_->apply(change);
    });
  });
  // On the core strand after the subscription: nothing lies between this snapshot and the first change.
  core.ping([raw = bus.get(), courier, &core] {
    courier->post([raw, snapshot = core.snapshot()] {
      raw->latest_ = snapshot;
      raw->connect();
    });
  });
  return bus;
}

Bus::Bus(core::Core& core) : core_(core) {}

Bus::~Bus() {
  if (!loop_) return;
  if (courier_) courier_->close();
  loop_->post([this] { disconnect(); });
  loop_->shutdown();
}

void Bus::ping(std::function<void()> answer) {
  loop_->post(std::move(answer));
}

// libsystemd waits up to 90 seconds for a bus that takes a connection and says nothing. It does so in a thread for that
// alone, which a stop leaves behind; what it hands to the courier afterwards is dropped.
void Bus::connect() {
  struct Opened {
    std::unique_ptr<sdbus::IConnection> connection;
    std::string problem;
  };
  retryTimer_ = 0;
  try {
    std::thread([this, courier = courier_] {
      auto opened = std::make_shared<Opened>();
      try {
        opened->connection = sdbus::createSessionBusConnection();
      } catch (const sdbus::Error& error) {
        opened->problem = error.what();
      }
      courier->post([this, opened] {
        if (!opened->connection) return lost(opened->problem);
        connected(std::move(opened->connection));
      });
    }).detach();
  } catch (const std::system_error& error) {
    lost(std::string("make a thread: ") + error.what());
  }
}

void Bus::connected(std::unique_ptr<sdbus::IConnection> connection) {
  Flagged asking(asking_);
  try {
    connection_ = std::move(connection);
    logControl_ = std::make_unique<LogControl>(*connection_);
    front_ = std::make_unique<Front>(core_, courier_, *connection_, latest_);
  } catch (const sdbus::Error& error) {
    return lost(error.what());
  }
  claimName();
}

// The objects stand before the name is taken: whoever the name wakes up sees all of them.
void Bus::claimName() {
  Flagged asking(asking_);
  retryTimer_ = 0;
  try {
    requestName(*connection_, kBusName);
    retrySeconds_ = 1;
    problem_.clear();
    core_.report({"SessionBus", true, "", ""});
    logInfo("bus: {} is on the session bus", kBusName);
  } catch (const sdbus::Error& error) {
    if (std::string_view(error.what()).find("ile exists") == std::string_view::npos) return lost(error.what());
    std::string problem = std::string("another process has the name ") + kBusName;
    if (problem != problem_)
      logWarning("bus: {} (`busctl --user status {}` shows it); waiting for it to go", problem, kBusName);
    problem_ = problem;
    core_.report({"SessionBus", false, "NameTaken", problem});
    retry(&Bus::claimName);
  }
  pump();
}

void Bus::retry(void (Bus::*action)()) {
  retryTimer_ = loop_->runAfter(std::chrono::seconds(retrySeconds_), [this, action] { (this->*action)(); });
  retrySeconds_ = std::min(retrySeconds_ * 2, kLongestRetrySeconds);
}

void Bus::lost(const std::string& why) {
  disconnect();
  if (why != problem_) logWarning("bus: no session bus ({}); the CRI works without, trying again", why);
  problem_ = why;
  core_.report({"SessionBus", false, "NoSessionBus", why});
  retry(&Bus::connect);
}

void Bus::disconnect() {
  if (retryTimer_ != 0) loop_->cancel(std::exchange(retryTimer_, 0));
  if (timer_ != 0) loop_->cancel(std::exchange(timer_, 0));
  if (watchedFd_ >= 0) loop_->unwatch(std::exchange(watchedFd_, -1));
  watchedEvents_ = 0;
  front_.reset();
  logControl_.reset();
  connection_.reset();
}

// Handles what has come and tells the loop what libsystemd waits for next. After everything that may have queued
// something in the connection.
void Bus::pump() {
  if (!connection_) return;
  try {
    int handled = 0;
    while (handled < kMessagesAtOnce && processOne(*connection_)) ++handled;
    if (handled == kMessagesAtOnce) courier_->post([] {});
    watchConnection();
  } catch (const sdbus::Error& error) {
    lost(error.what());
  }
}

void Bus::watchConnection() {
  auto data = connection_->getEventLoopPollData();
  auto events = static_cast<std::uint32_t>(data.events);  // poll's and epoll's numbers are the same
  if (data.fd != watchedFd_ || events != watchedEvents_) {
    if (watchedFd_ >= 0 && data.fd != watchedFd_) loop_->unwatch(watchedFd_);
    if (auto status = loop_->watch(data.fd, events, [this](std::uint32_t) { pump(); }); !status)
      logError("bus: {}", status.error());
    watchedFd_ = data.fd;
    watchedEvents_ = events;
  }
  if (timer_ != 0) loop_->cancel(std::exchange(timer_, 0));
  int timeout = data.getPollTimeout();
  if (timeout < 0) return;
  timer_ = loop_->runAfter(std::chrono::milliseconds(timeout), [this] {
    timer_ = 0;
    pump();
  });
}

}  // namespace userpod::bus
