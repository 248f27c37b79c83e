// One TCP connection of a client to a pod: bytes, half-closes and resets are carried from each side to the other.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/network/ports/worker.hpp"

namespace userpod::ports {

// In its worker's thread.
class Connection final : public Turns {
 public:
  // Both sockets are non-blocking; the pod's may be on the way to be connected. `ended` is called once, from within a
  // turn or an event, and must retire the connection.
  Connection(Worker& worker, ServicePointer service, UniqueFd client, UniqueFd pod,
             std::function<void(Connection&)> ended);
  ~Connection() override;

  Status start();
  bool turn() override;
  void reset();  // ends it: both sides are told that it was cut
  const Service& service() const { return *service_; }

 private:
  struct End final : Handler {
    explicit End(Connection& owner, UniqueFd socket) : connection(owner), fd(std::move(socket)) {}
    void onEvents(std::uint32_t events) override;
    Connection& connection;
    UniqueFd fd;
    // As far as known: edge-triggered events set them, a call that would block takes them back.
    bool readable = false;
    bool writable = false;
    bool finished = false;  // its peer sends no more: the end of the stream is behind what is readable
    bool failed = false;
  };
  // From one end to the other. Few bytes are copied, as that takes no pipe; many are spliced.
  struct Flow {
    End& from;
    End& to;
    std::string copied;        // what the destination did not take of a copy
    std::optional<Pipe> pipe;  // with what it did not take of a splice; none when that is nothing
    std::size_t inPipe = 0;
    bool bulk = false;
    bool ended = false;   // nothing more comes
    bool closed = false;  // and the destination has been told
  };

  bool step(Flow& flow);  // whether anything was done
  bool fill(Flow& flow);
  bool copy(Flow& flow);
  bool splice(Flow& flow);
  bool drain(Flow& flow);
  bool send(Flow& flow, std::string_view bytes);
  bool readFailed(Flow& flow);
  bool writeFailed();
  void dropBytes(Flow& flow);

  Worker& worker_;
  ServicePointer service_;
  End client_;
  End pod_;
  Flow up_{client_, pod_};
  Flow down_{pod_, client_};
  std::function<void(Connection&)> ended_;
  std::size_t moved_ = 0;  // in this turn
  bool broken_ = false;
};

// Takes a port's TCP connections in one worker, beside those of the others.
class Acceptor final : public Handler {
 public:
  using Take = std::function<void(UniqueFd client, const Endpoint& address)>;
  Acceptor(int socket, Take take) : socket_(socket), take_(std::move(take)) {}
  void onEvents(std::uint32_t events) override;

 private:
  int socket_;
  Take take_;
};

// Closing it then resets the connection.
void abortOnClose(int socket);

}  // namespace userpod::ports
