// top: asks the daemon again and again, in a thread of its own, so that keys are answered while it does not.
#include <fmt/core.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <clocale>
#include <mutex>
#include <optional>
#include <thread>

#include "daemon/sys/util.hpp"
#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"
#include "dbus/userpodctl/terminal.hpp"
#include "dbus/userpodctl/top_view.hpp"

namespace userpod::ctl {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kFirstPause{500};  // to the second look, which makes rates of the counters

Result<TopAnswers> ask(BusClient& bus, bool all, bool start) {
  TopAnswers answers;
  USERPOD_TRY(manager, bus.properties(kRootPath, kManager, start));
  auto options = [all](sd_bus_message* message) {
    return all ? sd_bus_message_append(message, "aoa{sv}", 0, 1, "all", "b", 1)
               : sd_bus_message_append(message, "aoa{sv}", 0, 0);
  };
  USERPOD_TRY(stats, bus.call(kRootPath, kManager, "GetStats", options, false));
  USERPOD_TRY(pods, bus.list("ListPods", {"Id", "Name", "Namespace", "State"}, false));
  USERPOD_TRY(containers, bus.list("ListContainers", {"Id", "Name", "Pod", "State"}, false));
  constexpr std::int64_t kMicro = 1000;
  answers.time = static_cast<std::uint64_t>(nowNanos() / kMicro);
  answers.manager = std::move(manager);
  answers.pods = std::move(pods);
  answers.containers = std::move(containers);
  answers.stats = std::move(stats);
  return answers;
}

// The connection, made anew after a failure, and what was counted before.
class Source {
 public:
  // all: what takes the daemon longer to read too, which is what is read and written.
  Result<TopSample> next(bool all) {
    if (!bus_) {
      USERPOD_TRY(bus, BusClient::open());
      bus_.emplace(std::move(bus));
    }
    // Started at the first time only: top does not keep a daemon alive that somebody stops.
    auto answers = ask(*bus_, all, !std::exchange(asked_, true));
    if (answers) return history_.add(*answers);
    bus_.reset();
    return std::move(answers).error();
  }

 private:
  bool asked_ = false;
  std::optional<BusClient> bus_;
  TopHistory history_;
};

// Samples as they come, made by a thread. At the end of the program it may hang in a call: nobody waits for it then.
class Sampler {
 public:
  Sampler(bool all, std::chrono::milliseconds interval)
      : interval_(interval), all_(all), ready_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    std::thread([this] { run(Source()); }).detach();
  }
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  int fd() const { return ready_.get(); }
  void want(bool all) { all_ = all; }
  // The newest; what was there before it, where it failed.
  TopSample take() {
    std::uint64_t count = 0;
    (void)!::read(ready_.get(), &count, sizeof count);
    std::lock_guard lock(mutex_);
    return sample_;
  }

 private:
  void run(Source source) {
    auto next = Clock::now();
    for (int round = 0;; ++round) {
      auto sample = source.next(all_);
      {
        std::lock_guard lock(mutex_);
        if (sample)
          sample_ = std::move(*sample);
        else
          sample_.problem = "the daemon cannot be asked, waiting for it: " + sample.error().text();
      }
      std::uint64_t one = 1;
      (void)!::write(ready_.get(), &one, sizeof one);
      next = std::max(next + (round == 0 ? std::min(kFirstPause, interval_) : interval_), Clock::now());
      std::this_thread::sleep_until(next);
    }
  }

  const std::chrono::milliseconds interval_;
  std::atomic<bool> all_;
  UniqueFd ready_;
  std::mutex mutex_;
  TopSample sample_;  // guarded by mutex_
};

std::optional<TopSort> sortOfKey(char key) {
  switch (key) {
    case 'c':
      return TopSort::Cpu;
    case 'm':
      return TopSort::Memory;
    case 'n':
      return TopSort::Name;
    case 'p':
      return TopSort::Pids;
    case 'i':
      return TopSort::Io;
    case 't':
      return TopSort::Net;
    default:
      return std::nullopt;
  }
}

void watch(const TopOptions& options, TopSort sort, const Display& display) {
  Terminal terminal;
  static Sampler sampler(sort == TopSort::Io,
                         options.interval);  // its thread lives as long as the program, which ends by _exit()
  TopSample sample;
  sample.problem = "asking the daemon ...";
  for (;;) {
    auto size = Terminal::size();
    terminal.draw(topLines(sample, sort, {size.columns, size.rows, display.color}));
    auto happened = terminal.wait(sampler.fd(), -1);
    if (happened.event == Terminal::Event::Quit || happened.key == 'q' || happened.key == 'Q') return;
    if (auto wanted = sortOfKey(happened.key)) sort = *wanted;
    sampler.want(sort == TopSort::Io);
    if (happened.event == Terminal::Event::None) sample = sampler.take();
  }
}

std::string jsonLine(const TopSample& sample) {
  return topJson(sample).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// A document for each moment, until nobody reads them.
Status printDocuments(const TopOptions& options, TopSort sort) {
  Source source;
  TopSample sample;
  for (int round = 0;; ++round) {
    auto next = source.next(sort == TopSort::Io);
    if (!next && round == 0) return std::move(next).error();
    if (next)
      sample = std::move(*next);
    else
      sample.problem = next.error().text();
    // The first has no rates.
    if (round > 0) {
      fmt::print("{}", jsonLine(sample));
      if (std::fflush(stdout) != 0) return {};
      if (options.once) return {};
    }
    std::this_thread::sleep_for(round == 0 ? std::min(kFirstPause, options.interval) : options.interval);
  }
}

Status printOnce(const TopOptions& options, TopSort sort, const Display& display) {
  Source source;
  USERPOD_TRY(first, source.next(sort == TopSort::Io));
  (void)first;
  std::this_thread::sleep_for(options.interval);
  USERPOD_TRY(sample, source.next(sort == TopSort::Io));
  constexpr std::size_t kColumns = 120;
  TopScreen screen{kColumns, 0, display.color};
  if (::isatty(STDOUT_FILENO) == 1) screen.columns = Terminal::size().columns;
  for (const auto& line : topLines(sample, sort, screen)) {
    auto end = line.find_last_not_of(' ');
    fmt::print("{}\n", line.substr(0, end + 1));
  }
  return {};
}

}  // namespace

int runTop(const TopOptions& options, const Display& display) {
  auto sort = topSort(options.sort);
  if (!sort)
    return fail(Error(Code::InvalidArgument, "--sort " + options.sort + ": cpu, memory, name, pids, io or net"),
                display);
  // Of no matter what language: widths of characters.
  if (std::setlocale(LC_CTYPE, "C.UTF-8") == nullptr) std::setlocale(LC_CTYPE, "");
  if (display.json) return finish(printDocuments(options, *sort), display);
  if (options.once || !Terminal::isOne()) return finish(printOnce(options, *sort, display), display);
  watch(options, *sort, display);
  std::fflush(nullptr);
  ::_exit(EXIT_SUCCESS);  // the thread that asks may be in a call that hangs
}

}  // namespace userpod::ctl
