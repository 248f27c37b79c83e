#include "daemon/network/ports/worker.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>

#include "daemon/network/ports/datagrams.hpp"
#include "daemon/network/ports/privileges.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::ports {
namespace {

constexpr int kEvents = 128;
constexpr int kPipeSize = 1 << 20;
constexpr unsigned kLargePipes = 8;  // of a worker: 2048 pages of the 16384 that a user may have in pipes
constexpr unsigned kPipes = 64;      // with those of the usual size, 16 pages

}  // namespace

Result<std::unique_ptr<Worker>> Worker::start(unsigned number, int nodeNamespace, Shared& shared) {
  std::unique_ptr<Worker> worker(new Worker(shared));
  worker->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  worker->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!worker->epoll_ || !worker->wake_) return sysError("make a worker of host ports");
  epoll_event event{.events = EPOLLIN, .data = {.ptr = nullptr}};
  if (::epoll_ctl(worker->epoll_.get(), EPOLL_CTL_ADD, worker->wake_.get(), &event) < 0)
    return sysError("make a worker of host ports");
  std::promise<Status> joined;
  auto done = joined.get_future();
  worker->thread_ = std::thread([&joined, self = worker.get(), number, nodeNamespace] {
    ::pthread_setname_np(::pthread_self(), fmt::format("ports-{}", number).c_str());
    auto status = self->join(nodeNamespace);
    bool able = static_cast<bool>(status);
    joined.set_value(std::move(status));
    if (able) self->loop();
  });
  USERPOD_CHECK(done.get());
  return worker;
}

Worker::Worker(Shared& shared) : shared_(shared) {}

Worker::~Worker() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  (void)!::eventfd_write(wake_.get(), 1);
  thread_.join();
}

Status Worker::join(int nodeNamespace) {
  if (::setns(nodeNamespace, CLONE_NEWNET) < 0) return sysError("join the node's network namespace");
  return keepNetworkCapabilities();
}

void Worker::run(const std::function<void()>& task) {
  std::promise<void> done;
  {
    std::lock_guard lock(mutex_);
    tasks_.emplace_back([&] {
      task();
      done.set_value();
    });
  }
  (void)!::eventfd_write(wake_.get(), 1);
  done.get_future().wait();
}

Status Worker::watch(int fd, std::uint32_t events, Handler& handler) {
  epoll_event event{.events = events, .data = {.ptr = &handler}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return sysError("watch a socket");
  return {};
}

void Worker::unwatch(int fd) {
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void Worker::schedule(Turns& turns) {
  if (turns.queued) return;
  turns.queued = true;
  turns_.push_back(&turns);
}

void Worker::retire(std::unique_ptr<Turns> turns) {
  if (turns->queued) std::erase(turns_, turns.get());
  retiredTurns_.push_back(std::move(turns));
}

int Worker::timeout() {
  if (!turns_.empty()) return 0;
  if (!second_) return -1;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(nextSecond_ - Clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

void Worker::loop() {
  std::array<epoll_event, kEvents> events{};
  for (;;) {
    int count = ::epoll_wait(epoll_.get(), events.data(), kEvents, timeout());
    if (count < 0 && errno != EINTR) {
      logError("{}", sysError("wait for sockets"));
      return;
    }
    bool woken = false;
    for (int index = 0; index < count; ++index) {
      const auto& event = events[static_cast<std::size_t>(index)];
      if (event.data.ptr == nullptr)
        woken = true;
      else
        static_cast<Handler*>(event.data.ptr)->onEvents(event.events);
    }
    takeTurns();
    if (second_ && Clock::now() >= nextSecond_) {
      nextSecond_ = Clock::now() + std::chrono::seconds(1);
      second_();
    }
    deleteRetired();
    if (!woken) continue;
    eventfd_t ignored = 0;
    (void)!::eventfd_read(wake_.get(), &ignored);
    runTasks();
    deleteRetired();
    std::lock_guard lock(mutex_);
    if (stopping_) return;
  }
}

// What goes may retire its own parts.
void Worker::deleteRetired() {
  while (!retired_.empty() || !retiredTurns_.empty()) {
    auto handlers = std::exchange(retired_, {});
    auto turns = std::exchange(retiredTurns_, {});
  }
}

void Worker::runTasks() {
  std::unique_lock lock(mutex_);
  while (!tasks_.empty()) {
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

// Once each, so that new events and new connections come between.
void Worker::takeTurns() {
  for (std::size_t count = turns_.size(); count > 0 && !turns_.empty(); --count) {
    Turns* next = turns_.front();
    turns_.pop_front();
    next->queued = false;
    if (next->turn()) schedule(*next);
  }
}

Datagrams& Worker::datagrams() {
  if (!datagrams_) datagrams_ = std::make_unique<Datagrams>();
  return *datagrams_;
}

std::optional<Pipe> Worker::takePipe() {
  std::optional<Pipe> taken;
  if (!pipes_.empty()) {
    taken = std::move(pipes_.back());
    pipes_.pop_back();
  } else {
    if (pipesOut_ >= kPipes) return std::nullopt;
    auto made = makePipe(O_NONBLOCK);
    if (!made) return std::nullopt;
    // One that stays small does too.
    if (pipesOut_ < kLargePipes) (void)::fcntl(made->write.get(), F_SETPIPE_SZ, kPipeSize);
    taken = std::move(*made);
  }
  ++pipesOut_;
  return taken;
}

void Worker::givePipe(Pipe pipe) {
  --pipesOut_;
  if (pipes_.size() < kLargePipes) pipes_.push_back(std::move(pipe));
}

void Worker::dropPipe(Pipe) {
  --pipesOut_;
}

}  // namespace userpod::ports
