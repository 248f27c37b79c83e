#include "tests/benchmark/host_side.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "daemon/sys/util.hpp"
#include "tests/benchmark/rows.hpp"

namespace userpod::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kSampling{20};
constexpr std::size_t kMessage = 64 << 10;

struct Process {
  std::string directory;
  std::string name;
  pid_t pid = 0;
  pid_t parent = 0;
};

// The own user's.
std::vector<Process> processes() {
  std::vector<Process> found;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", failed)) {
    std::string directory = entry.path();
    struct stat info{};
    if (!std::isdigit(static_cast<unsigned char>(directory[6])) || ::stat(directory.c_str(), &info) < 0 ||
        info.st_uid != ::getuid())
      continue;
    auto stat = readFile(directory + "/stat");  // pid (name) state parent
    if (!stat) continue;
    auto open = stat->find('(');
    auto close = stat->rfind(')');
    if (open == std::string::npos || close == std::string::npos || close + 4 >= stat->size()) continue;
    found.push_back({directory, stat->substr(open + 1, close - open - 1), std::atoi(stat->c_str()),
                     std::atoi(stat->c_str() + close + 4)});
  }
  return found;
}

class Watch {
 public:
  explicit Watch(std::vector<std::string> names) : names_(std::move(names)) {}
  explicit Watch(pid_t root) : root_(root) {}

  void sample() {
    PeakMemory sum;
    for (const auto& process : chosen()) {
      auto rollup = readFile(process.directory + "/smaps_rollup");
      if (!rollup) continue;  // ended, or another user's by now
      sum.rss += std::strtod(procField(*rollup, "Rss").c_str(), nullptr) / 1024;
      sum.pss += std::strtod(procField(*rollup, "Pss").c_str(), nullptr) / 1024;
    }
    peak_.rss = std::max(peak_.rss, sum.rss);
    peak_.pss = std::max(peak_.pss, sum.pss);
  }
  nlohmann::json peak() const { return {{"rss", peak_.rss}, {"pss", peak_.pss}}; }

 private:
  std::vector<Process> chosen() const {
    auto all = processes();
    if (root_ == 0) {
      std::erase_if(all, [&](const Process& process) {
        return std::find(names_.begin(), names_.end(), process.name) == names_.end();
      });
      return all;
    }
    std::set<pid_t> tree{root_};
    for (bool grown = true; grown;) {
      grown = false;
      for (const auto& process : all) grown |= tree.contains(process.parent) && tree.insert(process.pid).second;
    }
    std::erase_if(all, [&](const Process& process) { return !tree.contains(process.pid); });
    return all;
  }

  std::vector<std::string> names_;
  pid_t root_ = 0;
  PeakMemory peak_;
};

nlohmann::json failure(const std::string& text) {
  return {{"error", text}};
}

// Whether the caller has said something, or has gone, within that time.
bool heard(int socket, std::chrono::milliseconds time) {
  pollfd poll{.fd = socket, .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, static_cast<int>(time.count())) > 0;
}

nlohmann::json runProgram(int socket, const nlohmann::json& request) {
  UniqueFd output(::memfd_create("output", MFD_CLOEXEC));
  if (!output) return failure("memfd_create");
  SpawnOptions options;
  options.argv = request["argv"].get<std::vector<std::string>>();
  options.environment = request["environment"].get<std::vector<std::string>>();
  options.descriptors = {{output.get(), 1}, {output.get(), 2}};
  options.newSession = true;
  const bool watched = request["watched"].get<bool>();
  auto begin = Clock::now();
  auto child = spawn(options);
  if (!child) return failure(child.error().text());
  Watch watch(child->pid());
  for (;;) {
    auto ended = child->waitFor(watched ? kSampling : std::chrono::milliseconds(200));
    double time = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    if (!ended) return failure(ended.error().text());
    if (!*ended) {
      if (watched) watch.sample();
      if (!heard(socket, std::chrono::milliseconds(0))) continue;
      ::kill(-child->pid(), SIGKILL);  // nobody waits for it any more
      return failure("broken off");
    }
    if ((*ended)->code == 0) {
      auto answer = watch.peak();
      answer["milliseconds"] = time;
      return answer;
    }
    ::lseek(output.get(), 0, SEEK_SET);
    auto said = readAll(output.get(), 1 << 20);
    return failure(options.argv[0] + ": " + (said ? excerpt(*said, 2000) : "exit " + std::to_string((*ended)->code)));
  }
}

Result<nlohmann::json> receive(int socket) {
  std::string text(kMessage, '\0');
  ssize_t size = ::recv(socket, text.data(), text.size(), 0);
  if (size <= 0) return Error(Code::Internal, "the process in the host's namespaces has gone");
  return nlohmann::json::parse(text.begin(), text.begin() + size);
}

Status sendMessage(int socket, const nlohmann::json& message) {
  std::string text = message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (::send(socket, text.data(), text.size(), MSG_NOSIGNAL) < 0) return sysError("ask the process on the host");
  return {};
}

// Until the next message.
nlohmann::json watchProcesses(int socket, const nlohmann::json& request) {
  Watch watch(request["names"].get<std::vector<std::string>>());
  do {
    watch.sample();
  } while (!heard(socket, kSampling));
  (void)receive(socket);
  return watch.peak();
}

nlohmann::json answer(int socket, const nlohmann::json& request) {
  if (request.contains("tool")) {
    auto found = findProgram(request["tool"].get<std::string>());
    return {{"path", found ? *found : std::string()}};
  }
  return request.contains("names") ? watchProcesses(socket, request) : runProgram(socket, request);
}

void serve(int socket) {
  while (auto request = receive(socket))
    if (!sendMessage(socket, answer(socket, *request))) return;
}

}  // namespace

Result<std::unique_ptr<HostSide>> HostSide::start() {
  USERPOD_TRY(sockets, makeSocketPair(SOCK_SEQPACKET));
  pid_t pid = ::fork();
  if (pid < 0) return sysError("fork");
  if (pid == 0) {
    for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_IGN);  // it ends with its caller
    sockets.first.reset();
    serve(sockets.second.get());
    ::_exit(0);
  }
  USERPOD_TRY(pidfd, openPidfd(pid));
  return std::unique_ptr<HostSide>(new HostSide(Child(pid, std::move(pidfd)), std::move(sockets.first)));
}

HostSide::~HostSide() {
  socket_.reset();  // what it runs ends then
  (void)child_.waitFor(std::chrono::seconds(5));
}

Result<nlohmann::json> HostSide::call(const nlohmann::json& request) {
  USERPOD_CHECK(sendMessage(socket_.get(), request));
  USERPOD_TRY(reply, receive(socket_.get()));
  if (reply.contains("error")) return Error(Code::Internal, reply["error"].get<std::string>());
  return reply;
}

Result<std::string> HostSide::findTool(const std::string& name) {
  USERPOD_TRY(reply, call({{"tool", name}}));
  return reply["path"].get<std::string>();
}

Result<double> HostSide::run(const std::vector<std::string>& argv, const std::vector<std::string>& environment) {
  USERPOD_TRY(reply, call({{"argv", argv}, {"environment", environment}, {"watched", false}}));
  return reply["milliseconds"].get<double>();
}

Result<PeakMemory> HostSide::memoryOf(const std::vector<std::string>& argv,
                                      const std::vector<std::string>& environment) {
  USERPOD_TRY(reply, call({{"argv", argv}, {"environment", environment}, {"watched", true}}));
  return PeakMemory{reply["rss"].get<double>(), reply["pss"].get<double>()};
}

Result<PeakMemory> HostSide::memoryDuring(const std::vector<std::string>& names,
                                          const std::function<Status()>& action) {
  USERPOD_CHECK(sendMessage(socket_.get(), {{"names", names}}));
  auto done = action();
  // Whatever is said ends the watch.
  auto reply = call(nullptr);
  USERPOD_CHECK(std::move(done));
  if (!reply) return std::move(reply).error();
  return PeakMemory{(*reply)["rss"].get<double>(), (*reply)["pss"].get<double>()};
}

}  // namespace userpod::bench
