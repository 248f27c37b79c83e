// What front ends carry streams of: commands in containers, attached sessions, sockets in pods.
#include "daemon/core/core_impl.hpp"

namespace userpod::core {

// A container in which a command can be run.
Result<ContainerPointer> CoreImpl::executable(const std::string& key) const {
  USERPOD_TRY(record, snapshot()->container(key));
  const ContainerPointer& container = containers_.at(record->id);
  if (container->record->state != ContainerRecord::State::Running || (container->stop && container->stop->killed))
    return Error(Code::InvalidState, "container " + record->id + " is not running");
  if (container->record->paused)
    return Error(Code::InvalidState, "container " + record->id + " is paused: resume it first");
  return container;
}

void CoreImpl::execSync(const std::string& key, std::vector<std::string> command, std::chrono::milliseconds timeout,
                        Callback<oci::ExecResult> done) {
  post([this, key, command = std::move(command), timeout, done = std::move(done)]() mutable {
    auto container = executable(key);
    if (!container) return done(std::move(container).error());
    const ContainerRecord& record = *(*container)->record;
    runtime_->exec(
        {record.id, handlerOf(record), parts_.paths.containerDirectory(record.id), std::move(command), timeout},
        std::move(done));
  });
}

void CoreImpl::openExec(const std::string& key, ExecRequest request, Callback<oci::ExecStreams> started,
                        Callback<std::int32_t> ended) {
  post([this, key, request = std::move(request), started = std::move(started), ended = std::move(ended)]() mutable {
    auto container = executable(key);
    if (!container) return started(std::move(container).error());
    const ContainerRecord& record = *(*container)->record;
    oci::ExecStart start{.id = record.id,
                         .handler = handlerOf(record),
                         .bundle = parts_.paths.containerDirectory(record.id),
                         .command = std::move(request.command),
                         .tty = request.tty,
                         .in = request.in,
                         .out = request.out,
                         .err = request.err,
                         .size = request.size};
    runtime_->openExec(start, std::move(started), std::move(ended));
  });
}

void CoreImpl::attach(const std::string& key, bool tty, Callback<oci::Attachment> done) {
  post([this, key, tty, done = std::move(done)]() mutable {
    auto found = snapshot()->container(key);
    if (!found) return done(std::move(found).error());
    auto record = containers_.at((*found)->id)->record;
    if (record->state != ContainerRecord::State::Created && record->state != ContainerRecord::State::Running)
      return done(Error(Code::InvalidState, "container " + record->id + " is not created or running"));
    const ContainerConfig& config = record->config;
    if (config.tty != tty)
      return done(Error(Code::InvalidState, "container " + record->id +
                                                (config.tty ? " has a terminal: attach with tty"
                                                            : " has no terminal: attach without tty")));
    parking_.take(record->id, [this, record, done = std::move(done)](UniqueFd parked) {
      auto answer = [record, done](Result<UniqueFd> socket) {
        if (!socket) return done(std::move(socket).error());
        const ContainerConfig& made = record->config;
        done(oci::Attachment{std::move(*socket), made.tty, made.stdinOpen, made.stdinOnce});
      };
      if (parked) return answer(std::move(parked));
      workers_->submit(
          [bundle = parts_.paths.containerDirectory(record->id), answer] { answer(oci::connectMonitor(bundle)); });
    });
  });
}

void CoreImpl::detach(const std::string& containerId, UniqueFd socket, bool input) {
  auto owned = std::make_shared<UniqueFd>(std::move(socket));
  post([this, containerId, owned, input] {
    auto found = containers_.find(containerId);
    if (found == containers_.end()) return;
    const ContainerConfig& config = found->second->record->config;
    if (config.stdinOpen && config.stdinOnce && !input) parking_.park(containerId, std::move(*owned));
  });
}

void CoreImpl::resizeTerminal(const std::string& key, oci::TerminalSize size, DoneCallback done) {
  post([this, key, size, done = std::move(done)]() mutable {
    auto found = snapshot()->container(key);
    if (!found) return done(std::move(found).error());
    const ContainerRecord& record = *containers_.at((*found)->id)->record;
    if (record.state != ContainerRecord::State::Created && record.state != ContainerRecord::State::Running)
      return done(Error(Code::InvalidState, "container " + record.id + " is not created or running"));
    if (!record.config.tty) return done(Error(Code::InvalidState, "container " + record.id + " has no terminal"));
    workers_->submit([bundle = parts_.paths.containerDirectory(record.id), size, done = std::move(done)] {
      done(oci::resizeTerminal(bundle, size));
    });
  });
}

void CoreImpl::podSockets(const std::string& key, Callback<network::TcpSockets> done) {
  post([this, key, done = std::move(done)]() mutable {
    auto pod = snapshot()->pod(key);
    if (!pod) return done(std::move(pod).error());
    if ((*pod)->state != PodRecord::State::Ready)
      return done(Error(Code::InvalidState, "pod " + (*pod)->id + " is not ready"));
    workers_->submit([path = podNamespaces(**pod).network, done = std::move(done)] { done(network::socketsIn(path)); });
  });
}

Result<network::LoopbackListeners> CoreImpl::loopbackListeners() {
  return network::listenOnLoopback(node_.networkNamespace.get());
}

}  // namespace userpod::core
