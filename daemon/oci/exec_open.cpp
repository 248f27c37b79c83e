// An exec whose streams the caller carries. userpod-exec is always in front of the runtime: runc gives a terminal away
// only with --detach, and a runtime that stays would hold the command's pipes open, and wait for all it leaves behind.
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "daemon/oci/exec_session.hpp"

namespace userpod::oci {
namespace {

struct ConsoleSocket {
  UniqueFd listener;
  UniqueFd place;  // O_PATH: by /proc/self/fd it can be connected to, although it has no name any more
};

// Without a name from the start: nothing to be found by others, or to be left behind.
Result<ConsoleSocket> makeConsoleSocket(const std::string& path) {
  ConsoleSocket console;
  console.listener.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!console.listener) return sysError("make a socket for the terminal");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Error(Code::Internal, path + " is too long for a socket");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  ::unlink(path.c_str());  // of a daemon that was killed between the next two calls
  if (::bind(console.listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return sysError("bind " + path);
  auto place = openFile(path, O_PATH | O_NOFOLLOW);
  ::unlink(path.c_str());
  if (!place) return std::move(place).error();
  console.place = std::move(*place);
  if (::listen(console.listener.get(), 1) < 0) return sysError("listen on " + path);
  return console;
}

// The descriptor of one message; none at the end of the stream, or when there is nothing to be read yet (errno).
Result<UniqueFd> receiveDescriptor(int socket) {
  std::array<char, 4096> text{};  // runc sends the terminal's name, crun a byte
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) < 0) return sysError("receive the terminal");
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len < CMSG_LEN(sizeof(int))) {
    if ((message.msg_flags & MSG_CTRUNC) != 0) return sysError("receive the terminal", EMFILE);
    return UniqueFd();
  }
  int descriptor = -1;
  std::memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
  return UniqueFd(descriptor);
}

// The container has made it; what it may have put in the place of one must not be read from or written to.
Status setUpTerminal(int terminal, TerminalSize size) {
  int number = 0;
  if (::ioctl(terminal, TIOCGPTN, &number) < 0) return sysError("what the container has at /dev/ptmx is no terminal");
  winsize wanted{size.rows, size.columns, 0, 0};
  if (::ioctl(terminal, TIOCSWINSZ, &wanted) < 0) return sysError("set the terminal's size");
  int flags = ::fcntl(terminal, F_GETFL);
  if (flags < 0 || ::fcntl(terminal, F_SETFL, flags | O_NONBLOCK) < 0) return sysError("set up the terminal");
  return {};
}

}  // namespace

class ExecLoop::OpenSession final : public Session {
 public:
  OpenSession(ExecLoop& loop, const Handler& handler, const ExecStart& input,
              std::function<void(Result<ExecStreams>)> started, std::function<void(Result<std::int32_t>)> ended)
      : Session(loop, handler, {input.id, input.bundle, input.command}),
        input_(input),
        started_(std::move(started)),
        ended_(std::move(ended)) {}

 private:
  bool detached(const Template&) const override { return true; }
  std::string gate() const override { return gate_ ? "6" : "-"; }
  std::string begun() const override { return "7"; }
  std::string process(const Template& pattern) const override;
  Status prepare(SpawnOptions& options) override;
  Status spawned() override;
  void ended(std::int32_t code) override;
  void closeStreams() override;
  void answer(Error error) override;

  Status addPipe(SpawnOptions& options, int number);
  Status addConsole(SpawnOptions& options);
  void accept();
  void receive();
  void readBegun();
  void startWhenComplete();
  void close(UniqueFd& watched);

  const ExecStart input_;
  const std::function<void(Result<ExecStreams>)> started_;
  const std::function<void(Result<std::int32_t>)> ended_;
  bool commandRuns_ = false;
  bool running_ = false;  // started_ was called with its streams
  ExecStreams streams_;
  UniqueFd listener_;
  UniqueFd console_;  // the connection that brings the terminal
  UniqueFd gate_;     // closed, it lets the command begin
  UniqueFd begun_;    // gets a byte when it has
};

void ExecLoop::open(const Handler& handler, const ExecStart& input, std::function<void(Result<ExecStreams>)> started,
                    std::function<void(Result<std::int32_t>)> ended) {
  begin(std::make_shared<OpenSession>(*this, handler, input, std::move(started), std::move(ended)));
}

std::string ExecLoop::OpenSession::process(const Template& pattern) const {
  if (!input_.tty) return pattern.process;
  auto process = nlohmann::json::parse(pattern.process);
  process["terminal"] = true;
  process["consoleSize"] = {{"width", input_.size.columns}, {"height", input_.size.rows}};
  auto& environment = process["env"];
  bool named = false;
  for (const auto& entry : environment) named = named || entry.get<std::string>().starts_with("TERM=");
  if (!named) environment.push_back("TERM=xterm");
  return process.dump();
}

Status ExecLoop::OpenSession::prepare(SpawnOptions& options) {
  USERPOD_TRY(begun, makePipe(O_NONBLOCK));
  begun_ = std::move(begun.read);
  options.descriptors.emplace_back(begun.write.get(), 7);
  childEnds_.push_back(std::move(begun.write));
  if (input_.tty) return addConsole(options);
  if (input_.in) USERPOD_CHECK(addPipe(options, STDIN_FILENO));
  if (input_.out) USERPOD_CHECK(addPipe(options, STDOUT_FILENO));
  if (input_.err) USERPOD_CHECK(addPipe(options, STDERR_FILENO));
  return {};
}

Status ExecLoop::OpenSession::addPipe(SpawnOptions& options, int number) {
  USERPOD_TRY(pipe, makePipe());
  bool in = number == STDIN_FILENO;
  UniqueFd& ours = in ? streams_.in : number == STDOUT_FILENO ? streams_.out : streams_.err;
  ours = std::move(in ? pipe.write : pipe.read);
  if (::fcntl(ours.get(), F_SETFL, O_NONBLOCK) < 0) return sysError("set up a pipe");
  UniqueFd& theirs = in ? pipe.read : pipe.write;
  options.descriptors.emplace_back(theirs.get(), number);
  childEnds_.push_back(std::move(theirs));
  return {};
}

Status ExecLoop::OpenSession::addConsole(SpawnOptions& options) {
  USERPOD_TRY(console, makeConsoleSocket(fmt::format("{}/{}.tty", execDirectory(loop_.paths_), number_)));
  listener_ = std::move(console.listener);
  options.descriptors.emplace_back(console.place.get(), 5);
  childEnds_.push_back(std::move(console.place));
  options.argv.emplace_back("--console-socket=/proc/self/fd/5");
  if (handler_.flavour == "runc") return {};  // sets the size before it starts the command
  USERPOD_TRY(gate, makePipe());
  gate_ = std::move(gate.write);
  options.descriptors.emplace_back(gate.read.get(), 6);
  childEnds_.push_back(std::move(gate.read));
  return {};
}

Status ExecLoop::OpenSession::spawned() {
  auto self = shared_from_this();
  USERPOD_CHECK(loop_.loop_->watch(begun_.get(), EPOLLIN, [this, self](std::uint32_t) { readBegun(); }));
  if (!input_.tty) return {};
  return loop_.loop_->watch(listener_.get(), EPOLLIN, [this, self](std::uint32_t) { accept(); });
}

// Only then is it in its cgroup, where hangUp finds it.
void ExecLoop::OpenSession::readBegun() {
  char byte = 0;
  ssize_t count = ::read(begun_.get(), &byte, 1);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  close(begun_);
  commandRuns_ = count == 1;
  startWhenComplete();
}

void ExecLoop::OpenSession::accept() {
  UniqueFd accepted(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!accepted && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)) return;
  int reason = errno;
  close(listener_);
  if (!accepted) return kill(sysError("accept the terminal's connection", reason));
  console_ = std::move(accepted);
  auto watched =
      loop_.loop_->watch(console_.get(), EPOLLIN, [this, self = shared_from_this()](std::uint32_t) { receive(); });
  if (!watched) kill(std::move(watched).error());
}

void ExecLoop::OpenSession::receive() {
  auto terminal = receiveDescriptor(console_.get());
  if (!terminal && (terminal.error().sysErrno() == EAGAIN || terminal.error().sysErrno() == EINTR)) return;
  close(console_);
  if (!terminal) return kill(std::move(terminal).error());
  if (!*terminal) return;  // the runtime has failed: what it says comes with its end
  if (auto status = setUpTerminal(terminal->get(), input_.size); !status) return kill(std::move(status).error());
  streams_.terminal = std::move(*terminal);
  gate_.reset();
  startWhenComplete();
}

void ExecLoop::OpenSession::startWhenComplete() {
  if (!commandRuns_ || (input_.tty && !streams_.terminal)) return;
  running_ = true;
  streams_.hangUp = [cgroup = loop_.node_.cgroupRoot + cgroup_] { signalCgroup(cgroup, SIGHUP); };
  started_(std::move(streams_));
}

void ExecLoop::OpenSession::ended(std::int32_t code) {
  // A command that has ended at once: this may still be on the way here.
  if (listener_) accept();
  if (console_) receive();
  if (begun_) readBegun();
  if (failure_) return cancel(*failure_);
  auto error = notStarted(code);
  if (!error && !running_)
    error = Error(Code::RuntimeFailed,
                  fmt::format("{} exec: exit status {}, before the command ran", handler_.flavour, code));
  if (error) return fail(std::move(*error));
  auto self = shared_from_this();
  release();
  ended_(code);
}

void ExecLoop::OpenSession::close(UniqueFd& watched) {
  if (watched) loop_.loop_->unwatch(watched.get());
  watched.reset();
}

void ExecLoop::OpenSession::closeStreams() {
  close(listener_);
  close(console_);
  close(begun_);
  gate_.reset();
  streams_ = ExecStreams();
  // Nobody carries its streams any more.
  if (child_ && !cgroup_.empty()) signalCgroup(loop_.node_.cgroupRoot + cgroup_, SIGHUP);
}

void ExecLoop::OpenSession::answer(Error error) {
  if (running_) return ended_(std::move(error));
  started_(std::move(error));
}

}  // namespace userpod::oci
