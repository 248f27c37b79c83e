// ExecSync: both outputs are collected here, the time is limited.
#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "daemon/oci/exec_session.hpp"

namespace userpod::oci {
namespace {

constexpr std::size_t kOutputLimit = 16 << 20;  // a stream; what comes after is read and dropped (CVE-2022-1708)
constexpr std::chrono::seconds kDrainTime{2};

}  // namespace

class ExecLoop::SyncSession final : public Session {
 public:
  SyncSession(ExecLoop& loop, const Handler& handler, const ExecInput& input,
              std::function<void(Result<ExecResult>)> done)
      : Session(loop, handler, {input.id, input.bundle, input.command}), time_(input.timeout), done_(std::move(done)) {}

 private:
  Status prepare(SpawnOptions& options) override;
  Status spawned() override;
  void ended(std::int32_t code) override;
  void closeStreams() override;
  void answer(Error error) override { done_(std::move(error)); }

  Status watch(UniqueFd& pipe, std::string& into);
  void read(UniqueFd& pipe, std::string& into);
  void finish();

  const std::chrono::milliseconds time_;
  const std::function<void(Result<ExecResult>)> done_;
  UniqueFd out_;
  UniqueFd err_;
  ExecResult result_;
  bool exited_ = false;
};

void ExecLoop::exec(const Handler& handler, const ExecInput& input, std::function<void(Result<ExecResult>)> done) {
  begin(std::make_shared<SyncSession>(*this, handler, input, std::move(done)));
}

Status ExecLoop::SyncSession::prepare(SpawnOptions& options) {
  USERPOD_TRY(out, makePipe());
  USERPOD_TRY(err, makePipe());
  options.descriptors.insert(options.descriptors.end(), {{out.write.get(), 1}, {err.write.get(), 2}});
  childEnds_.push_back(std::move(out.write));
  childEnds_.push_back(std::move(err.write));
  out_ = std::move(out.read);
  err_ = std::move(err.read);
  return {};
}

Status ExecLoop::SyncSession::spawned() {
  USERPOD_CHECK(watch(out_, result_.out));
  USERPOD_CHECK(watch(err_, result_.err));
  if (time_.count() > 0)
    timer_ = loop_.loop_->runAfter(time_, [this, self = shared_from_this()] {
      auto seconds = static_cast<double>(time_.count()) / 1000;
      kill(Error(Code::Timeout, fmt::format("the command did not end within {} s and was killed", seconds)));
    });
  return {};
}

Status ExecLoop::SyncSession::watch(UniqueFd& pipe, std::string& into) {
  if (::fcntl(pipe.get(), F_SETFL, O_NONBLOCK) < 0) return sysError("set up a pipe");
  return loop_.loop_->watch(pipe.get(), EPOLLIN,
                            [this, self = shared_from_this(), &pipe, &into](std::uint32_t) { read(pipe, into); });
}

void ExecLoop::SyncSession::read(UniqueFd& pipe, std::string& into) {
  std::array<char, 64 << 10> buffer;  // not cleared
  ssize_t count = ::read(pipe.get(), buffer.data(), buffer.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count > 0) {
    into.append(buffer.data(), std::min(static_cast<std::size_t>(count), kOutputLimit - into.size()));
    return;
  }
  loop_.loop_->unwatch(pipe.get());
  pipe.reset();
  if (exited_ && !out_ && !err_) finish();
}

void ExecLoop::SyncSession::ended(std::int32_t code) {
  exited_ = true;
  result_.exitCode = code;
  if (!out_ && !err_) return finish();
  // Somebody that the command left behind may hold a pipe for ever.
  timer_ = loop_.loop_->runAfter(kDrainTime, [this, self = shared_from_this()] { finish(); });
}

void ExecLoop::SyncSession::finish() {
  if (auto error = notStarted(result_.exitCode)) return fail(std::move(*error));
  auto self = shared_from_this();
  release();
  done_(std::move(result_));
}

void ExecLoop::SyncSession::closeStreams() {
  for (UniqueFd* pipe : {&out_, &err_})
    if (*pipe) {
      loop_.loop_->unwatch(pipe->get());
      pipe->reset();
    }
}

}  // namespace userpod::oci
