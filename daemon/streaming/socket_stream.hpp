// A client's TCP connection.
#pragma once

#include <memory>
#include <string>

#include "daemon/streaming/asio.hpp"
#include "daemon/streaming/byte_stream.hpp"

namespace userpod::streaming {

class SocketStream final : public ByteStream {
 public:
  // received: what was read already.
  SocketStream(Socket socket, std::string received);
  ~SocketStream() override;

  void start(Listener& listener) override;
  bool ready() const override { return pending_.empty(); }
  void write(std::string_view head, std::string_view body) override;
  void hold() override { ++holds_; }
  void release() override;
  void close() override;
  void abort() override;
  Clock::time_point stalledSince() const override { return ready() ? Clock::time_point::max() : lastWrite_; }
  Clock::time_point lastUse() const override { return lastUse_; }
  void check() override;

 private:
  // Not to be read further: it is held, or has to take our answers first. What comes after the end is thrown away.
  bool held() const { return !closing_ && (holds_ > 0 || pending_.size() - sent_ > kChunk + kMaxAnswers); }
  void read();
  void readSome();
  void flush();
  void shutDown();
  void over();

  Socket socket_;
  asio::steady_timer linger_;
  Listener* listener_ = nullptr;
  std::string early_;     // received before start()
  std::string pending_;   // to be sent
  std::size_t sent_ = 0;  // of pending_
  int holds_ = 0;
  bool reading_ = false;   // a wait for readable is under way
  bool flushing_ = false;  // one for writable
  bool closing_ = false;
  bool over_ = false;
  Clock::time_point lastUse_ = Clock::now();
  Clock::time_point lastWrite_ = Clock::now();
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// Whether the peer of a TCP connection has closed its side, seen without reading what it had sent before.
bool peerHasClosed(int socket);

}  // namespace userpod::streaming
