// What exec and attach have in common: five streams named by the header "streamtype", and a status at the end.
#pragma once

#include <array>
#include <optional>

#include "daemon/streaming/session.hpp"

namespace userpod::streaming {

class RemoteCommand : public Session {
 public:
  void check(Clock::time_point now) override;

 protected:
  enum Kind : std::size_t { kError, kStdin, kStdout, kStderr, kResize, kKinds };
  struct Wanted {
    bool in = false;
    bool out = false;
    bool err = false;
    bool tty = false;
  };
  RemoteCommand(SessionContext context, Wanted wanted);

  // All streams that the request names are there.
  virtual void begin() = 0;
  virtual void stdinReceived(std::string_view bytes) = 0;
  virtual void stdinEnded() = 0;
  virtual void resized(oci::TerminalSize size) = 0;
  virtual void outputUnwanted(Kind kind) = 0;  // the client has reset stdout or stderr

  bool has(Kind kind) const { return streams_[kind].has_value(); }
  StreamId stream(Kind kind) const { return *streams_[kind]; }  // there is one where the request names it
  // The end: of the output streams, then the status, then of the connection. Repeating it is fine.
  void finish(const Result<std::int32_t>& ended);
  bool finished() const { return finished_; }
  oci::TerminalSize size() const { return size_; }  // the last that came

 private:
  bool opened(StreamId id, const StreamHeaders& headers) override;
  void received(StreamId id, std::string_view bytes) override;
  void ended(StreamId id) override;
  void reset(StreamId id) override;
  std::optional<Kind> kindOf(StreamId id) const;
  void parseSizes(std::string_view bytes);

  Wanted wanted_;
  StatusFormat format_;
  std::array<std::optional<StreamId>, kKinds> streams_;
  std::array<bool, kKinds> expected_{};
  Clock::time_point opened_ = Clock::now();
  bool begun_ = false;
  bool finished_ = false;
  std::string sizes_;  // JSON that is not whole yet
  oci::TerminalSize size_;
};

}  // namespace userpod::streaming
