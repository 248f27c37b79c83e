#include "daemon/sys/executor.hpp"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace userpod {

Result<std::unique_ptr<EventLoop>> EventLoop::start(const std::string& threadName) {
  std::unique_ptr<EventLoop> loop(new EventLoop());
  loop->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_) return sysError("epoll_create");
  loop->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->wake_) return sysError("eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = loop->wake_.get();
  if (::epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->wake_.get(), &event) < 0) return sysError("epoll_ctl");
  loop->thread_ = std::thread([raw = loop.get()] { raw->run(); });
  ::pthread_setname_np(loop->thread_.native_handle(), threadName.substr(0, 15).c_str());
  return loop;
}

EventLoop::~EventLoop() {
  shutdown();
}

void EventLoop::post(Task task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    tasks_.push_back(std::move(task));
    if (tasks_.size() > 1) return;  // the loop has been woken for the first one already
  }
  std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof(one));
}

void EventLoop::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
}

Status EventLoop::watch(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  int operation = watches_.contains(fd) ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (::epoll_ctl(epoll_.get(), operation, fd, &event) < 0) return sysError("watch descriptor");
  watches_[fd] = std::make_shared<std::function<void(std::uint32_t)>>(std::move(callback));
  return {};
}

void EventLoop::unwatch(int fd) {
  if (watches_.erase(fd) > 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::runAt(Clock::time_point when, Task task) {
  TimerId id = nextTimer_++;
  timers_.emplace(std::pair(when, id), std::move(task));
  timerTimes_.emplace(id, when);
  return id;
}

void EventLoop::cancel(TimerId timer) {
  auto found = timerTimes_.find(timer);
  if (found == timerTimes_.end()) return;
  timers_.erase({found->second, timer});
  timerTimes_.erase(found);
}

void EventLoop::drainTasks() {
  std::deque<Task> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (auto& task : tasks) task();
}

int EventLoop::runTimers() {
  while (!timers_.empty()) {
    auto first = timers_.begin();
    auto left = first->first.first - Clock::now();
    if (left > Clock::duration::zero())
      return static_cast<int>(
          std::min<std::int64_t>(std::chrono::ceil<std::chrono::milliseconds>(left).count(), 3600 * 1000));
    Task task = std::move(first->second);
    timerTimes_.erase(first->first.second);
    timers_.erase(first);
    task();
  }
  return -1;
}

void EventLoop::run() {
  std::array<epoll_event, 64> events{};
  for (;;) {
    drainTasks();
    int timeout = runTimers();
    {
      std::lock_guard lock(mutex_);
      if (!tasks_.empty()) continue;
      if (stopping_) return;
    }
    int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
    for (int i = 0; i < count; ++i) {
      const auto& event = events.at(static_cast<std::size_t>(i));
      if (event.data.fd == wake_.get()) {
        std::uint64_t ignored = 0;
        (void)!::read(wake_.get(), &ignored, sizeof(ignored));
        continue;
      }
      auto found = watches_.find(event.data.fd);
      if (found == watches_.end()) continue;
      auto callback = found->second;  // kept alive: it may unwatch itself
      (*callback)(event.events);
    }
  }
}

Status inOwnThread(const std::function<Status()>& function) {
  Status result;
  try {
    std::thread thread([&] { result = function(); });
    thread.join();
  } catch (const std::system_error& error) {
    return sysError("make a thread (see TasksMax and RLIMIT_NPROC)", error.code().value());
  }
  return result;
}

Workers::Workers(unsigned threads, const std::string& name) {
  for (unsigned i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { run(); });
    ::pthread_setname_np(threads_.back().native_handle(), name.substr(0, 15).c_str());
  }
}

Workers::~Workers() {
  shutdown();
}

void Workers::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  for (auto& thread : threads_)
    if (thread.joinable()) thread.join();
}

void Workers::submit(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    tasks_.push_back(std::move(task));
  }
  ready_.notify_one();
}

void Workers::run() {
  for (;;) {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
  }
}

}  // namespace userpod
