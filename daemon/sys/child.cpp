#include "daemon/sys/child.hpp"

#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "daemon/sys/util.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#ifdef __SANITIZE_THREAD__
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace userpod {
namespace {

// clone3 without libc: with CLONE_VM the child runs on the parent's stack below this frame while the parent sleeps, so
// the system call must not be inside a function that returns in the child, as libc's syscall() would.
inline __attribute__((always_inline)) long rawClone3(clone_args* arguments, std::size_t size) {
#if defined(__x86_64__)
  long result;
  asm volatile("syscall" : "=a"(result) : "a"(SYS_clone3), "D"(arguments), "S"(size) : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long number asm("x8") = SYS_clone3;
  register long first asm("x0") = reinterpret_cast<long>(arguments);
  register long second asm("x1") = static_cast<long>(size);
  asm volatile("svc 0" : "+r"(first) : "r"(number), "r"(second) : "memory");
  return first;
#else
#error "clone3 needs its system call sequence for this processor"
#endif
}

// The child borrows the parent's memory, and with it what the thread sanitizer notes of the parent's thread: calls that
// never return may not be entered there, and the child's descriptors are not the parent's.
#define USERPOD_IN_CHILD __attribute__((no_sanitize("thread")))
struct ChildIgnored {
#ifdef __SANITIZE_THREAD__
  ChildIgnored() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~ChildIgnored() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#endif
};

// Everything the child needs, prepared by the parent: between clone3 and exec only async-signal-safe calls are made.
struct Plan {
  char** argv;
  char** environment;
  const std::pair<int, int>* descriptors;
  std::size_t descriptorCount;
  int highest;  // above every target number
  const char* directory;
  int cgroupNamespace;
  int networkNamespace;
  int deathSignal;
  bool newSession;
  const char* failedStep;
  int failedErrno;
};

[[noreturn]] USERPOD_IN_CHILD void fail(Plan& plan, const char* step) {
  plan.failedErrno = errno;
  plan.failedStep = step;
  for (;;) ::syscall(SYS_exit_group, 127);  // not _exit, where a sanitizer would take stock of the parent
}

USERPOD_IN_CHILD void placeDescriptors(Plan& plan) {
  // Two passes: first out of the way of every target, then to the targets, or a move could overwrite a later source.
  std::array<int, 32> moved{};
  for (std::size_t i = 0; i < plan.descriptorCount; ++i) {
    moved.at(i) = ::fcntl(plan.descriptors[i].first, F_DUPFD_CLOEXEC, plan.highest);
    if (moved.at(i) < 0) fail(plan, "duplicate descriptor");
  }
  for (std::size_t i = 0; i < plan.descriptorCount; ++i)
    if (::dup2(moved.at(i), plan.descriptors[i].second) < 0) fail(plan, "place descriptor");
  for (int standard = 0; standard < 3; ++standard) {
    bool given = std::any_of(plan.descriptors, plan.descriptors + plan.descriptorCount,
                             [&](const auto& pair) { return pair.second == standard; });
    if (given) continue;
    int null = ::open("/dev/null", O_RDWR);  // not close-on-exec: it is the standard descriptor itself
    if (null < 0) fail(plan, "open /dev/null");
    if (null != standard) {
      if (::dup2(null, standard) < 0) fail(plan, "place descriptor");
      ::close(null);
    }
  }
}

[[noreturn]] USERPOD_IN_CHILD __attribute__((noinline)) void childMain(Plan& plan) {
  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) ::sigaction(number, &standard, nullptr);
  if (plan.deathSignal != 0 && ::prctl(PR_SET_PDEATHSIG, plan.deathSignal) < 0) fail(plan, "set death signal");
  if (plan.newSession && ::setsid() < 0) fail(plan, "new session");
  if (plan.cgroupNamespace >= 0 && ::setns(plan.cgroupNamespace, CLONE_NEWCGROUP) < 0)
    fail(plan, "join cgroup namespace");
  if (plan.networkNamespace >= 0 && ::setns(plan.networkNamespace, CLONE_NEWNET) < 0)
    fail(plan, "join network namespace");
  if (plan.directory != nullptr && ::chdir(plan.directory) < 0) fail(plan, "change directory");
  placeDescriptors(plan);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(plan.argv[0], plan.argv, plan.environment);
  fail(plan, "execute");
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> list;
  list.reserve(texts.size() + 1);
  for (const auto& text : texts) list.push_back(const_cast<char*>(text.c_str()));
  list.push_back(nullptr);
  return list;
}

}  // namespace

Result<Child> spawn(const SpawnOptions& options) {
  if (options.argv.empty() || options.argv[0].find('/') == std::string::npos)
    return Error(Code::Internal, "spawn needs the path of a program");
  if (options.descriptors.size() > 32) return Error(Code::Internal, "spawn takes at most 32 descriptors");
  auto argv = pointers(options.argv);
  auto environment = pointers(options.environment);
  int highest = 3;
  for (const auto& pair : options.descriptors) highest = std::max(highest, pair.second + 1);
  Plan plan{argv.data(),
            environment.data(),
            options.descriptors.data(),
            options.descriptors.size(),
            highest,
            options.directory.empty() ? nullptr : options.directory.c_str(),
            options.cgroupNamespace,
            options.networkNamespace,
            options.deathSignal,
            options.newSession,
            nullptr,
            0};
  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  if (options.cgroup >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<std::uint64_t>(options.cgroup);
  }
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // no handler of ours may run on the shared stack in the child
  long pid = -1;
  {
    [[maybe_unused]] ChildIgnored ignored;
    pid = rawClone3(&arguments, sizeof(arguments));
    if (pid == 0) childMain(plan);
  }
#ifdef __SANITIZE_ADDRESS__
  // The child ran further down this stack and never returned: its frames' red zones would stay there.
  __asan_unpoison_memory_region(static_cast<char*>(__builtin_frame_address(0)) - 65536, 65536);
#endif
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return sysError("start " + options.argv[0], static_cast<int>(-pid));
  Child child(static_cast<pid_t>(pid), UniqueFd(pidfd));
  if (plan.failedStep != nullptr) {
    (void)child.wait();
    return sysError(std::string(plan.failedStep) + " for " + options.argv[0], plan.failedErrno);
  }
  return child;
}

Child& Child::operator=(Child&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(pidfd_, other.pidfd_);
  return *this;
}

Child::~Child() {
  if (pid_ <= 0) return;
  (void)kill(SIGKILL);
  (void)wait();
}

Status Child::kill(int signal) const {
  return signalPidfd(pidfd_.get(), signal);
}

Result<ExitStatus> Child::wait() {
  siginfo_t info{};
  while (::waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED) < 0)
    if (errno != EINTR) return sysError("wait for process " + std::to_string(pid_));
  pid_ = -1;
  if (info.si_code == CLD_EXITED) return ExitStatus{info.si_status, 0};
  return ExitStatus{128 + info.si_status, info.si_status};
}

Result<std::optional<ExitStatus>> Child::waitFor(std::chrono::milliseconds time) {
  auto end = std::chrono::steady_clock::now() + time;
  for (;;) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd entry{pidfd_.get(), POLLIN, 0};
    int ready = ::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return sysError("poll process");
    if (ready == 0) return std::optional<ExitStatus>();
    USERPOD_TRY(status, wait());
    return std::optional<ExitStatus>(status);
  }
}

namespace {

// Reads what is there; false at the end of the stream.
bool drain(int fd, std::string& into, std::size_t limit) {
  std::array<char, 8192> buffer{};
  ssize_t count = ::read(fd, buffer.data(), buffer.size());
  if (count < 0) return errno == EINTR || errno == EAGAIN;
  std::size_t room = limit - std::min(limit, into.size());
  into.append(buffer.data(), std::min(room, static_cast<std::size_t>(count)));
  return count > 0;
}

}  // namespace

namespace {

// What it was about, if it said so: the end of it.
Error late(const std::string& program, const std::string& err) {
  constexpr std::size_t kMost = 400;
  std::string_view words = trim(err);
  words.remove_prefix(words.size() - std::min(words.size(), kMost));
  while (!words.empty() && (static_cast<unsigned char>(words[0]) & 0xc0U) == 0x80U) words.remove_prefix(1);
  return {Code::Timeout, program + " did not end in time and was killed" +
                             (words.empty() ? "" : "; its standard error: " + excerpt(words, kMost))};
}

}  // namespace

Result<Output> run(SpawnOptions options, std::chrono::milliseconds time, std::size_t limit) {
  USERPOD_TRY(outPipe, makePipe());
  USERPOD_TRY(errPipe, makePipe());
  options.descriptors.emplace_back(outPipe.write.get(), 1);
  options.descriptors.emplace_back(errPipe.write.get(), 2);
  USERPOD_TRY(child, spawn(options));
  outPipe.write.reset();
  errPipe.write.reset();
  Output output;
  auto end = std::chrono::steady_clock::now() + time;
  std::array<pollfd, 3> entries{pollfd{outPipe.read.get(), POLLIN, 0}, pollfd{errPipe.read.get(), POLLIN, 0},
                                pollfd{child.pidfd(), POLLIN, 0}};
  // Ends with the process, not with its pipes: a grandchild may hold them for ever.
  while (true) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
    if (left <= 0) return late(options.argv[0], output.err);
    int ready = ::poll(entries.data(), entries.size(), static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return sysError("poll");
    if (ready <= 0) continue;
    bool data = false;
    if (entries[0].revents != 0) (data = drain(outPipe.read.get(), output.out, limit)) || (entries[0].fd = -1);
    if (entries[1].revents != 0) (data |= drain(errPipe.read.get(), output.err, limit)) || (entries[1].fd = -1);
    if (entries[2].revents != 0 && !data) break;
  }
  USERPOD_TRY(status, child.wait());
  output.status = status;
  return output;
}

Result<UniqueFd> openPidfd(pid_t pid) {
  long fd = ::syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) return sysError("open process " + std::to_string(pid));
  return UniqueFd(static_cast<int>(fd));
}

Status signalPidfd(int pidfd, int signal) {
  if (::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) < 0) return sysError("send signal");
  return {};
}

void signalCgroup(const std::string& path, int signal) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored))
    if (entry.is_directory(ignored)) signalCgroup(entry.path(), signal);
  auto list = readFile(path + "/cgroup.procs");
  if (!list) return;
  for (const auto& line : split(trim(*list), '\n')) {
    auto process = openPidfd(static_cast<pid_t>(std::strtol(line.c_str(), nullptr, 10)));
    if (process) (void)signalPidfd(process->get(), signal);
  }
}

Result<std::string> findProgram(const std::string& name) {
  for (const char* directory : {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}) {
    std::string path = std::string(directory) + "/" + name;
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  std::string package = name == "newuidmap" || name == "newgidmap" ? "uidmap" : name;
  return Error(Code::HelperMissing, name + " is not installed; on Debian: apt install " + package);
}

}  // namespace userpod
