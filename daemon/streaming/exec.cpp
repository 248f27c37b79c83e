#include "daemon/streaming/exec.hpp"

#include <sys/ioctl.h>

namespace userpod::streaming {
namespace {

// For what the command has left behind and what still writes to its pipes, as `tee` in `exec > >(tee log)` does.
constexpr std::chrono::seconds kDrainTime{2};

}  // namespace

ExecSession::ExecSession(SessionContext context, Exec exec)
    : RemoteCommand(std::move(context), {exec.request.in, exec.request.out, exec.request.err, exec.request.tty}),
      exec_(std::move(exec)),
      stdin_(*connection_, exec_.request.tty ? Feeder::End::Nothing : Feeder::End::Close) {}

void ExecSession::begin() {
  exec_.request.size = size();
  core_.openExec(exec_.containerId, exec_.request,
                 onLoop([this](Result<oci::ExecStreams> streams) { started(std::move(streams)); },
                        [](Result<oci::ExecStreams> streams) {
                          if (streams) streams->hangUp();  // the client has gone meanwhile
                        }),
                 onLoop([this](Result<std::int32_t> ended) { processEnded(std::move(ended)); }));
}

void ExecSession::started(Result<oci::ExecStreams> streams) {
  if (!streams) return finish(std::move(streams).error().wrap("the command was not started"));
  hangUp_ = std::move(streams->hangUp);
  if (streams->terminal) {
    terminal_ = watched(io_, std::move(streams->terminal));
    if (exec_.request.size.columns != size().columns || exec_.request.size.rows != size().rows) resized(size());
    stdin_.start(terminal_);
    return addPump(terminal_, kStdout);
  }
  if (streams->in) stdin_.start(watched(io_, std::move(streams->in)));
  if (streams->out) addPump(watched(io_, std::move(streams->out)), kStdout);
  if (streams->err) addPump(watched(io_, std::move(streams->err)), kStderr);
}

void ExecSession::addPump(std::shared_ptr<Descriptor> from, Kind kind) {
  // A client of a terminal may leave its output out; then it is read all the same.
  auto id = has(kind) ? stream(kind) : 0;
  auto& pump = pumps_.at(kind);
  pump = std::make_unique<Pump>(std::move(from), *connection_, id, [this, kind] {
    pumps_.at(kind).reset();
    finishWhenDrained();
  });
  pump->start();
}

void ExecSession::resized(oci::TerminalSize size) {
  if (!terminal_) return;
  winsize window{size.rows, size.columns, 0, 0};
  (void)::ioctl(terminal_->native_handle(), TIOCSWINSZ, &window);  // the kernel tells the command by SIGWINCH
}

void ExecSession::outputUnwanted(Kind kind) {
  if (!terminal_) pumps_.at(kind).reset();  // the command sees a broken pipe
  finishWhenDrained();
}

void ExecSession::flushed() {
  // In turns: the first one fills the connection.
  std::swap(first_, second_);
  for (Kind kind : {first_, second_})
    if (pumps_.at(kind)) pumps_.at(kind)->flushed();
}

void ExecSession::processEnded(Result<std::int32_t> ended) {
  ended_ = std::move(ended);
  stdin_.stop();
  for (auto& pump : pumps_)
    if (pump) pump->noteOwed(terminal_ != nullptr);
  timer_.expires_after(kDrainTime);
  timer_.async_wait([this, weak = weak_from_this()](ErrorCode error) {
    auto self = weak.lock();
    if (error || !self) return;
    for (auto& pump : pumps_)
      if (pump) pump->cut();
  });
  finishWhenDrained();
}

void ExecSession::finishWhenDrained() {
  if (!ended_ || pumps_[kStdout] || pumps_[kStderr]) return;
  timer_.cancel();
  terminal_.reset();
  finish(*ended_);
}

// The command may say something yet, as a shell does of each child that the signal ends: a broken pipe would end it
// before its own handler has run. So the pipes stay for a moment, unread.
void ExecSession::left() {
  stdin_.stop();
  auto timer = std::make_shared<asio::steady_timer>(io_, kDrainTime);
  std::vector<std::shared_ptr<Descriptor>> pipes;
  for (auto& pump : pumps_)
    if (pump && !terminal_) pipes.push_back(pump->stop());
  for (auto& pump : pumps_) pump.reset();
  terminal_.reset();
  if (!hangUp_ || ended_) return;
  hangUp_();
  timer->async_wait([timer, pipes = std::move(pipes)](ErrorCode) {});
}

}  // namespace userpod::streaming
