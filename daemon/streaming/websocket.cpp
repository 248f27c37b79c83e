#include "daemon/streaming/websocket.hpp"

#include <boost/beast/websocket.hpp>
#include <deque>

#include "daemon/streaming/socket_stream.hpp"

namespace userpod::streaming {

namespace websocket = boost::beast::websocket;

// How its connection ends once the close frames are exchanged: RFC 6455 wants the server to close first. Beast would
// wait for the client's end, and a client that waits for ours would keep its session for as long.
struct ClientSocket : Socket {
  explicit ClientSocket(Socket socket) : Socket(std::move(socket)) {}
};
template <typename Handler>
void async_teardown(boost::beast::role_type, ClientSocket& socket, Handler&& handler) {
  ErrorCode ignored;
  socket.shutdown(Socket::shutdown_send, ignored);
  asio::post(socket.get_executor(), boost::beast::bind_front_handler(std::forward<Handler>(handler), ErrorCode()));
}

namespace {

constexpr std::size_t kMaxMessage = 16 << 20;
constexpr std::size_t kReadBuffer = 16 << 10;
constexpr std::chrono::seconds kHandshakeTime{10};  // the client's, for its part of the close

class BeastWebSocket final : public WebSocket {
 public:
  BeastWebSocket(Socket socket, Request request, std::string protocol)
      : state_(std::make_shared<State>(std::move(socket))),
        request_(std::move(request)),
        protocol_(std::move(protocol)) {}
  ~BeastWebSocket() override { *alive_ = false; }

  void start(Listener& listener) override;
  void send(std::string message, bool text) override;
  bool ready() const override { return state_->queue.empty(); }
  void hold() override { ++holds_; }
  void release() override {
    if (--holds_ == 0) read();
  }
  void close() override;
  void abort() override;
  Clock::time_point stalledSince() const override { return ready() ? Clock::time_point::max() : lastWrite_; }
  Clock::time_point lastUse() const override { return lastUse_; }
  void check() override {
    if (over_) return;
    if (closing_ && Clock::now() - stalledSince() > kFlushTime) return over();
    if (!closing_ && !reading_ && peerHasClosed(state_->stream.next_layer().native_handle())) over();
  }

 private:
  struct Message {
    std::string bytes;
    bool text = false;
  };
  // What operations under way use: each keeps it, as Beast's do not survive their stream.
  struct State {
    explicit State(Socket socket) : stream(ClientSocket(std::move(socket))) {}
    websocket::stream<ClientSocket> stream;
    std::string buffer;
    std::deque<Message> queue;  // the first is being written
  };
  void read();
  void readDone(ErrorCode error, std::size_t count);
  void write();
  void writeDone(ErrorCode error);
  void sayGoodbye();
  void over();

  std::shared_ptr<State> state_;
  Request request_;
  std::string protocol_;
  Listener* listener_ = nullptr;
  std::size_t queued_ = 0;  // bytes in the queue
  int holds_ = 0;
  bool accepted_ = false;
  bool first_ = true;  // the next part begins a message
  bool reading_ = false;
  bool closing_ = false;
  bool over_ = false;
  Clock::time_point lastUse_ = Clock::now();
  Clock::time_point lastWrite_ = Clock::now();
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

void BeastWebSocket::start(Listener& listener) {
  listener_ = &listener;
  state_->buffer.resize(kReadBuffer);
  state_->stream.set_option(websocket::stream_base::timeout{kHandshakeTime, websocket::stream_base::none(), false});
  state_->stream.set_option(websocket::stream_base::decorator([protocol = protocol_](websocket::response_type& answer) {
    answer.erase(http::field::server);
    if (!protocol.empty()) answer.set(http::field::sec_websocket_protocol, protocol);
  }));
  state_->stream.read_message_max(kMaxMessage);
  state_->stream.auto_fragment(false);
  state_->stream.async_accept(request_, [this, alive = alive_, state = state_](ErrorCode error) {
    if (!*alive || over_) return;
    if (error) return over();
    accepted_ = true;
    request_ = {};
    read();
    if (!state_->queue.empty()) write();
    if (state_->queue.empty() && closing_) sayGoodbye();
  });
}

void BeastWebSocket::read() {
  if (reading_ || holds_ > 0 || over_ || closing_ || !accepted_ || queued_ > kChunk + kMaxAnswers) return;
  reading_ = true;
  state_->stream.async_read_some(boost::asio::buffer(state_->buffer),
                                 [this, alive = alive_, state = state_](ErrorCode error, std::size_t count) {
                                   if (!*alive) return;
                                   reading_ = false;
                                   readDone(error, count);
                                 });
}

void BeastWebSocket::readDone(ErrorCode error, std::size_t count) {
  if (over_ || closing_) return;  // sayGoodbye() brings the end
  if (error) return over();       // after the close handshake, where the client has begun one
  lastUse_ = Clock::now();
  bool last = state_->stream.is_message_done();
  auto alive = alive_;
  listener_->message({state_->buffer.data(), count}, std::exchange(first_, last), last);
  if (*alive) read();
}

void BeastWebSocket::send(std::string message, bool text) {
  if (over_ || closing_) return;
  queued_ += message.size();
  state_->queue.push_back({std::move(message), text});
  if (state_->queue.size() == 1 && accepted_) write();
}

void BeastWebSocket::write() {
  state_->stream.text(state_->queue.front().text);
  lastWrite_ = Clock::now();
  state_->stream.async_write(boost::asio::buffer(state_->queue.front().bytes),
                             [this, alive = alive_, state = state_](ErrorCode error, std::size_t) {
                               if (*alive) writeDone(error);
                             });
}

void BeastWebSocket::writeDone(ErrorCode error) {
  if (over_) return;
  if (error) return over();
  lastUse_ = lastWrite_ = Clock::now();
  queued_ -= state_->queue.front().bytes.size();
  state_->queue.pop_front();
  if (!state_->queue.empty()) return write();
  if (closing_) return sayGoodbye();
  auto alive = alive_;
  listener_->flushed();
  if (*alive) read();
}

void BeastWebSocket::close() {
  if (over_ || std::exchange(closing_, true)) return;
  if (state_->queue.empty() && accepted_) sayGoodbye();
}

void BeastWebSocket::sayGoodbye() {
  state_->stream.async_close(websocket::close_code::normal, [this, alive = alive_, state = state_](ErrorCode) {
    if (*alive) over();
  });
}

void BeastWebSocket::abort() {
  if (over_) return;
  over_ = true;
  asio::post(state_->stream.get_executor(), [this, alive = alive_] {
    if (!*alive) return;
    over_ = false;
    over();
  });
}

void BeastWebSocket::over() {
  if (over_) return;
  over_ = true;
  ErrorCode ignored;
  state_->stream.next_layer().close(ignored);
  listener_->gone();  // may end this object
}

}  // namespace

std::unique_ptr<WebSocket> acceptWebSocket(Socket socket, Request request, std::string protocol) {
  return std::make_unique<BeastWebSocket>(std::move(socket), std::move(request), std::move(protocol));
}

void WebSocketTunnel::start(ByteStream::Listener& listener) {
  listener_ = &listener;
  socket_->start(*this);
}

void WebSocketTunnel::write(std::string_view head, std::string_view body) {
  socket_->send(std::string(head).append(body), false);
}

}  // namespace userpod::streaming
