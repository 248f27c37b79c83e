#include "daemon/network/ports/ports.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "daemon/network/ports/client.hpp"
#include "daemon/network/ports/messages.hpp"
#include "daemon/network/ports/takers.hpp"
#include "daemon/sys/child.hpp"
#include "daemon/sys/executor.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::network {
namespace {

using ports::Answer;
using ports::Request;

constexpr timeval kAnswerTime{5, 0};
constexpr std::chrono::milliseconds kFirstDelay{100};
constexpr std::chrono::milliseconds kLongestDelay{10000};
constexpr std::chrono::seconds kProvenAfter{10};  // a process that lived this long comes back at the shortest delay
constexpr std::chrono::seconds kEndTime{2};
constexpr const char* kCgroup = "/ports";

// A running userpod-ports.
struct Process {
  Child child;     // when this daemon started it: then it is to be reaped here
  UniqueFd pidfd;  // of one that was found
  UniqueFd socket;
  std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();

  int watched() const { return child ? child.pidfd() : pidfd.get(); }
};

class Client final : public Ports {
 public:
  Client(std::string program, std::string socketPath, std::int64_t offset, const NodeInside& node)
      : program_(std::move(program)), socketPath_(std::move(socketPath)), offset_(offset), node_(node) {}
  ~Client() override;

  void takeUp();
  Status publish(const PublishedPod& pod) override;
  Status withdraw(const std::string& podId) override;
  Status synchronise(const std::vector<PublishedPod>& living) override;
  Result<std::vector<PublishedPort>> list() override;

 private:
  // All with the mutex held.
  Status ensure();
  Status start();
  Status adopt(Process process);  // greets, watches
  bool find();
  Result<Answer> ask(const Request& request);
  Result<Answer> askOnce(const Request& request);
  Status publishNow(const PublishedPod& pod);
  Result<std::vector<PublishedPort>> listNow();
  void publishAll();
  void lose(const std::string& why);
  void finish();
  void end(Process process);
  // On the loop's thread.
  void died(int generation);
  void comeBack();
  void retry();

  const std::string program_;
  const std::string socketPath_;
  const std::int64_t offset_;
  const NodeInside& node_;
  std::mutex mutex_;
  std::map<std::string, PublishedPod> published_;
  std::optional<Process> process_;
  int generation_ = 0;  // of processes: a death that is heard of late means one of before
  std::chrono::milliseconds delay_ = kFirstDelay;
  bool returning_ = false;           // comeBack() is due
  bool retrying_ = false;            // retry() is due
  std::unique_ptr<EventLoop> loop_;  // from the first process on
};

Client::~Client() {
  // First: its callbacks take the mutex.
  if (loop_) loop_->shutdown();
  if (process_ && process_->child) process_->child.detach();
}

Result<UniqueFd> connectTo(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path) return Error(Code::InvalidArgument, path + " is too long for a socket");
  std::memcpy(name.sun_path, path.c_str(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return sysError("make a socket");
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kAnswerTime, sizeof kAnswerTime);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) < 0) return sysError("connect to " + path);
  return fd;
}

// The process that listens at the other end.
Result<UniqueFd> pidfdOfPeer(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return sysError("ask who has a socket");
  if (peer.pid <= 0) return Error(Code::Internal, "the port process is not one of the node");
  USERPOD_TRY(pidfd, openPidfd(peer.pid));
  // Still connected after that: its number was not another's meanwhile.
  char byte = 0;
  if (::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
    return Error(Code::NotReady, "the port process has ended");
  return std::move(pidfd);
}

void Client::takeUp() {
  std::lock_guard lock(mutex_);
  if (find()) logInfo("host ports: the running userpod-ports is taken up");
}

// Whether one runs that speaks this protocol. Another one ends.
bool Client::find() {
  auto socket = connectTo(socketPath_);
  if (!socket) {
    if (socket.error().sysErrno() != ENOENT && socket.error().sysErrno() != ECONNREFUSED)
      logWarning("host ports: {}; userpod-ports is started anew", socket.error());
    return false;
  }
  auto pidfd = pidfdOfPeer(socket->get());
  if (!pidfd) return false;
  Process process{.pidfd = std::move(*pidfd), .socket = std::move(*socket)};
  auto adopted = adopt(std::move(process));
  if (!adopted) logWarning("host ports: {}; userpod-ports is started anew", adopted.error());
  return static_cast<bool>(adopted);
}

Status Client::adopt(Process process) {
  (void)::setsockopt(process.socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerTime, sizeof kAnswerTime);
  auto text = ports::receiveMessage(process.socket.get());
  if (text && text->empty()) text = Error(Code::NotReady, "userpod-ports ended at its start; its reason is in the log");
  auto protocol = text ? ports::parseGreeting(*text) : Result<int>(std::move(text).error());
  if (protocol && *protocol != ports::kProtocol)
    protocol = Error(Code::NotSupported, fmt::format("the running userpod-ports speaks protocol {}, the daemon {}",
                                                     *protocol, ports::kProtocol));
  if (!protocol) {
    end(std::move(process));
    return std::move(protocol).error();
  }
  if (!loop_) {
    USERPOD_TRY(loop, EventLoop::start("ports"));
    loop_ = std::move(loop);
  }
  process_ = std::move(process);
  loop_->post([this, generation = ++generation_, fd = process_->watched()] {
    auto watched = loop_->watch(fd, EPOLLIN, [this, generation](std::uint32_t) { died(generation); });
    if (!watched) logWarning("host ports: {}", watched.error());
  });
  return {};
}

// By force, when it does not go by itself.
void Client::end(Process process) {
  process.socket.reset();
  if (process.child) return;  // killed and reaped
  (void)signalPidfd(process.pidfd.get(), SIGTERM);
  pollfd entry{process.pidfd.get(), POLLIN, 0};
  if (::poll(&entry, 1, std::chrono::milliseconds(kEndTime).count()) == 1) return;
  (void)signalPidfd(process.pidfd.get(), SIGKILL);
  (void)::poll(&entry, 1, std::chrono::milliseconds(kEndTime).count());
}

Status Client::start() {
  USERPOD_TRY(pair, makeSocketPair(SOCK_SEQPACKET));
  SpawnOptions options;
  UniqueFd cgroup;
  if (!node_.cgroupRoot.empty()) {
    // One that cannot be talked to would keep its ports, and one that a killed daemon had just started takes the
    // socket.
    if (auto removed = node_.removeCgroup(kCgroup); !removed) logWarning("host ports: {}", removed.error());
    USERPOD_TRY(made, node_.makeCgroup(kCgroup));
    cgroup = std::move(made);
  }
  options.argv = {program_, socketPath_};
  options.environment = {"LC_ALL=C.UTF-8"};
  if (const char* journal = std::getenv("JOURNAL_STREAM"))
    options.environment.push_back(fmt::format("JOURNAL_STREAM={}", journal));
  options.descriptors = {{pair.second.get(), ports::kControlDescriptor},
                         {node_.networkNamespace.get(), ports::kNamespaceDescriptor},
                         {STDERR_FILENO, STDERR_FILENO}};
  options.cgroup = cgroup.get();
  options.directory = "/";
  options.newSession = true;
  auto child = spawn(options);
  if (!child) return std::move(child).error().as(Code::NetworkSetupFailed).wrap("start " + program_);
  pair.second.reset();
  auto pid = child->pid();
  USERPOD_CHECK(adopt({.child = std::move(*child), .socket = std::move(pair.first)}));
  logInfo("host ports: userpod-ports runs, process {}", pid);
  return {};
}

Status Client::ensure() {
  if (process_) return {};
  if (!find()) USERPOD_CHECK(start());
  // After a death: what was there before comes first.
  publishAll();
  return process_ ? Status() : Error(Code::NetworkSetupFailed, "host ports: userpod-ports ends at once; see its log");
}

Result<Answer> Client::ask(const Request& request) {
  USERPOD_CHECK(ensure());
  auto answer = askOnce(request);
  // It has just died: its death is heard of in a moment, and the next one can answer.
  if (!answer && !process_ && ensure()) answer = askOnce(request);
  return answer;
}

// A process that cannot be talked to is lost; after a refusal all is well.
Result<Answer> Client::askOnce(const Request& request) {
  auto status = ports::sendMessage(process_->socket.get(), ports::requestText(request));
  if (!status && status.error().code() == Code::InvalidArgument) return std::move(status).error();
  Answer whole;
  for (bool more = true; more;) {
    auto text = status ? ports::receiveMessage(process_->socket.get()) : Result<std::string>(std::move(status).error());
    if (text && text->empty()) text = Error(Code::NotReady, "userpod-ports has ended");
    auto answer = text ? ports::parseAnswer(*text) : Result<Answer>(std::move(text).error());
    if (!answer) {
      lose(answer.error().text());
      return std::move(answer).error().as(Code::NetworkSetupFailed).wrap("host ports");
    }
    more = answer->more;
    if (answer->error) return std::move(*answer);
    whole.ports.insert(whole.ports.end(), answer->ports.begin(), answer->ports.end());
  }
  return whole;
}

void Client::lose(const std::string& why) {
  logWarning("host ports: {}", why);
  Process process = std::move(*process_);
  process_.reset();
  if (std::chrono::steady_clock::now() - process.since >= kProvenAfter) delay_ = kFirstDelay;
  (void)signalPidfd(process.watched(), SIGKILL);  // of one that hangs
  // The loop lets go of its descriptor before that is closed.
  auto shared = std::make_shared<Process>(std::move(process));
  loop_->post([this, shared] {
    loop_->unwatch(shared->watched());
    end(std::move(*shared));
  });
  if (returning_) return;
  returning_ = true;
  loop_->post([this, delay = delay_] { loop_->runAfter(delay, [this] { comeBack(); }); });
}

// Nothing is published: a user without host ports pays for none.
void Client::finish() {
  auto shared = std::make_shared<Process>(std::move(*process_));
  process_.reset();
  (void)signalPidfd(shared->watched(), SIGTERM);
  pollfd entry{shared->watched(), POLLIN, 0};
  if (::poll(&entry, 1, std::chrono::milliseconds(kEndTime).count()) != 1)
    (void)signalPidfd(shared->watched(), SIGKILL);
  if (!node_.cgroupRoot.empty())
    if (auto removed = node_.removeCgroup(kCgroup); !removed) logWarning("{}", removed.error());
  loop_->post([this, shared] { loop_->unwatch(shared->watched()); });
}

void Client::died(int generation) {
  std::lock_guard lock(mutex_);
  if (process_ && generation == generation_) lose("userpod-ports has died; its connections are lost");
}

void Client::comeBack() {
  std::lock_guard lock(mutex_);
  returning_ = false;
  if (process_ || published_.empty()) return;
  auto status = ensure();
  delay_ = std::min(delay_ * 2, kLongestDelay);
  if (status) return;
  logWarning("host ports: {}", status.error());
  if (returning_) return;
  returning_ = true;
  loop_->runAfter(delay_, [this] { comeBack(); });
}

// Ports that were not to be had when the process or the daemon came back.
void Client::retry() {
  std::lock_guard lock(mutex_);
  retrying_ = false;
  if (process_) publishAll();
}

void Client::publishAll() {
  for (const auto& [podId, pod] : published_) {
    if (!process_) return;
    auto status = publishNow(pod);
    if (status) continue;
    logFailure(Level::Warning, status.error(), {{"POD_ID", podId}}, "host ports");
    // Another program has taken it, or its address is away for now.
    if (std::exchange(retrying_, true)) continue;
    loop_->post([this] { loop_->runAfter(kLongestDelay, [this] { retry(); }); });
  }
}

Status Client::publishNow(const PublishedPod& pod) {
  USERPOD_TRY(answer, askOnce({.kind = Request::Kind::Publish, .pod = pod, .offset = offset_}));
  if (!answer.error) return {};
  if (!answer.taken) return *answer.error;
  return Error(answer.error->code(), answer.error->text() + takerOf(*answer.taken), answer.error->sysErrno());
}

bool hasHostPorts(const PublishedPod& pod) {
  return std::any_of(pod.ports.begin(), pod.ports.end(), [](const auto& port) { return port.hostPort != 0; });
}

Status Client::publish(const PublishedPod& pod) {
  if (!hasHostPorts(pod)) return withdraw(pod.podId);
  std::lock_guard lock(mutex_);
  USERPOD_CHECK(ensure());
  auto status = publishNow(pod);
  if (!status && !process_) {
    USERPOD_CHECK(ensure());
    status = publishNow(pod);
  }
  if (status) published_[pod.podId] = pod;
  return status;
}

Status Client::withdraw(const std::string& podId) {
  std::lock_guard lock(mutex_);
  published_.erase(podId);
  if (!process_) return {};
  USERPOD_TRY(answer, ask({.kind = Request::Kind::Withdraw, .pod = {.podId = podId}}));
  if (answer.error) return *answer.error;
  if (published_.empty()) finish();
  return {};
}

Result<std::vector<PublishedPort>> Client::listNow() {
  if (!process_) return std::vector<PublishedPort>();
  USERPOD_TRY(answer, ask({.kind = Request::Kind::List}));
  if (answer.error) return *answer.error;
  return std::move(answer.ports);
}

Result<std::vector<PublishedPort>> Client::list() {
  std::lock_guard lock(mutex_);
  return listNow();
}

Status Client::synchronise(const std::vector<PublishedPod>& living) {
  std::lock_guard lock(mutex_);
  published_.clear();
  for (const auto& pod : living)
    if (hasHostPorts(pod)) published_[pod.podId] = pod;
  if (!process_) return published_.empty() ? Status() : ensure();
  USERPOD_TRY(served, listNow());
  std::set<std::string> gone;
  for (const auto& port : served)
    if (!published_.contains(port.podId)) gone.insert(port.podId);
  for (const auto& podId : gone) {
    USERPOD_TRY(answer, ask({.kind = Request::Kind::Withdraw, .pod = {.podId = podId}}));
    if (answer.error) logFailure(Level::Warning, *answer.error, {{"POD_ID", podId}});
  }
  publishAll();
  if (published_.empty() && process_) finish();
  return {};
}

}  // namespace

Result<std::unique_ptr<Ports>> openPorts(const std::string& program, const Paths& paths, const Settings& settings,
                                         const NodeInside& node) {
  auto client = std::make_unique<Client>(program, paths.node + "/ports.sock", settings.privilegedPortOffset, node);
  client->takeUp();
  return std::unique_ptr<Ports>(std::move(client));
}

Result<std::unique_ptr<Ports>> Ports::open(const Paths& paths, const Settings& settings, const NodeInside& node) {
  return openPorts(USERPOD_LIBEXEC "/userpod-ports", paths, settings, node);
}

}  // namespace userpod::network
