#include <fmt/core.h>
#include <pthread.h>
#include <sys/socket.h>

#include <list>
#include <set>
#include <thread>

#include "daemon/streaming/channel_connection.hpp"
#include "daemon/streaming/http.hpp"
#include "daemon/streaming/negotiation.hpp"
#include "daemon/streaming/session.hpp"
#include "daemon/streaming/socket_stream.hpp"
#include "daemon/streaming/spdy_connection.hpp"

namespace userpod::streaming {
namespace {

constexpr std::size_t kMaxSessions = 1000;
// Connections that have not said yet what they want. Past that the oldest goes: whoever opens many of them, another
// user of the machine maybe, pushes out his own before those of a client that speaks at once.
constexpr std::size_t kMaxHeads = 256;
constexpr std::chrono::seconds kCheckPause{2};
constexpr std::chrono::milliseconds kAcceptPause{100};  // when no descriptor is left
constexpr int kSocketBuffer = 512 << 10;  // of the kernel, a direction: half of it costs a third of the throughput

std::string_view pathOf(const SessionRequest& request) {
  if (std::holds_alternative<Exec>(request)) return "/exec/";
  return std::holds_alternative<Attach>(request) ? "/attach/" : "/portforward/";
}

}  // namespace

class Server::Impl {
 public:
  explicit Impl(core::Streams& core) : core_(core), host_(io_), node_(io_), checks_(io_) {}
  Status start();
  Result<std::string> url(SessionRequest request);
  void stop();

 private:
  struct Listener {
    explicit Listener(asio::io_context& io) : acceptor(io), pause(io) {}
    asio::ip::tcp::acceptor acceptor;
    asio::steady_timer pause;
  };

  Status listen(Listener& listener, UniqueFd fd);
  void accept(Listener& listener);
  void accepted(Socket socket);
  void requested(Socket socket, std::string early, Request request);
  std::optional<std::pair<std::string, SessionRequest>> find(const Request& request);
  void begin(Socket socket, std::string early, Request request, const Protocol& protocol, SessionRequest session);
  void armChecks();

  core::Streams& core_;
  Tokens tokens_;
  asio::io_context io_{1};
  Listener host_;
  Listener node_;
  std::uint16_t port_ = 0;
  asio::steady_timer checks_;
  bool checking_ = false;
  std::list<std::weak_ptr<HeadReader>> heads_;  // oldest first
  std::set<std::shared_ptr<Session>> sessions_;
  std::thread thread_;
};

Status Server::Impl::start() {
  USERPOD_TRY(listeners, core_.loopbackListeners());
  port_ = listeners.port;
  USERPOD_CHECK(listen(host_, std::move(listeners.host)));
  USERPOD_CHECK(listen(node_, std::move(listeners.node)));
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "streaming");
    auto guard = asio::make_work_guard(io_);
    io_.run();
  });
  return {};
}

Status Server::Impl::listen(Listener& listener, UniqueFd fd) {
  ErrorCode error;
  listener.acceptor.assign(asio::ip::tcp::v4(), fd.get(), error);
  if (error) return Error(Code::System, "watch the streaming server's socket: " + error.message());
  (void)fd.release();
  accept(listener);
  return {};
}

void Server::Impl::stop() {
  if (!thread_.joinable()) return;
  asio::post(io_, [this] { io_.stop(); });
  thread_.join();
  sessions_.clear();  // their destructors close what they have
}

Result<std::string> Server::Impl::url(SessionRequest request) {
  std::string_view path = pathOf(request);
  USERPOD_TRY(token, tokens_.add(std::move(request)));
  return fmt::format("http://127.0.0.1:{}{}{}", port_, path, token);
}

// Not Asio's own: its sockets are inherited by what the daemon starts meanwhile, and a connection that a container's
// monitor holds too does not end.
void Server::Impl::accept(Listener& listener) {
  listener.acceptor.async_wait(Socket::wait_read, [this, &listener](ErrorCode error) {
    if (error) return;
    int fd = ::accept4(listener.acceptor.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      listener.pause.expires_after(kAcceptPause);
      listener.pause.async_wait([this, &listener](ErrorCode) { accept(listener); });
      return;
    }
    UniqueFd client(fd);
    if (client) {
      Socket socket(io_);
      socket.assign(asio::ip::tcp::v4(), client.get(), error);
      if (!error) {
        (void)client.release();
        accepted(std::move(socket));
      }
    }
    accept(listener);
  });
}

void Server::Impl::accepted(Socket socket) {
  std::erase_if(heads_, [](const auto& head) { return head.expired(); });
  if (heads_.size() >= kMaxHeads) {
    if (auto oldest = heads_.front().lock()) oldest->cancel();
    heads_.pop_front();
  }
  auto head =
      std::make_shared<HeadReader>(std::move(socket), [this](Socket client, std::string early, Request request) {
        if (client.is_open()) requested(std::move(client), std::move(early), std::move(request));
      });
  heads_.push_back(head);
  head->start();
}

std::optional<std::pair<std::string, SessionRequest>> Server::Impl::find(const Request& request) {
  std::string_view target(request.target().data(), request.target().size());
  target = target.substr(0, target.find('?'));
  auto slash = target.rfind('/');
  if (slash == std::string_view::npos) return std::nullopt;
  std::string token(target.substr(slash + 1));
  auto session = tokens_.find(token);
  if (!session || target.substr(0, slash + 1) != pathOf(*session)) return std::nullopt;
  return std::pair(token, std::move(*session));
}

void Server::Impl::requested(Socket socket, std::string early, Request request) {
  if (request.method() != http::verb::get && request.method() != http::verb::post)
    return answer(std::move(socket), http::status::method_not_allowed, "sessions begin with GET or POST",
                  {"Allow: GET, POST"});
  auto found = find(request);
  if (!found)
    return answer(std::move(socket), http::status::not_found,
                  "no such session: a URL is good for one request within one minute; ask the runtime for a new one");
  if (sessions_.size() >= kMaxSessions)
    return answer(std::move(socket), http::status::too_many_requests,
                  "1000 sessions are under way; try again when one has ended", {"Retry-After: 1"});
  auto chosen = negotiate(request, found->second);
  if (auto* refusal = std::get_if<Refusal>(&chosen))
    return answer(std::move(socket), refusal->status, refusal->text, refusal->headers);
  tokens_.consume(found->first);
  begin(std::move(socket), std::move(early), std::move(request), std::get<Protocol>(chosen), std::move(found->second));
}

void Server::Impl::begin(Socket socket, std::string early, Request request, const Protocol& protocol,
                         SessionRequest session) {
  ErrorCode ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::send_buffer_size(kSocketBuffer / 2), ignored);  // the kernel doubles it
  socket.set_option(asio::socket_base::receive_buffer_size(kSocketBuffer / 2), ignored);
  SessionContext context{core_, io_, nullptr, protocol.format, protocol.resizes};
  if (protocol.transport == Transport::Spdy) {
    if (!switchProtocols(socket, "SPDY/3.1", {"X-Stream-Protocol-Version: " + protocol.name})) return;
    context.connection =
        std::make_unique<SpdyConnection>(std::make_unique<SocketStream>(std::move(socket), std::move(early)));
  } else {
    // Frames before the answer: RFC 6455 has none, and Beast would not see them.
    if (!early.empty())
      return answer(std::move(socket), http::status::bad_request, "a WebSocket's frames follow the answer");
    auto webSocket = acceptWebSocket(std::move(socket), std::move(request), protocol.name);
    if (protocol.transport == Transport::SpdyInWebSocket) {
      context.connection = std::make_unique<SpdyConnection>(std::make_unique<WebSocketTunnel>(std::move(webSocket)));
    } else {
      context.fixedStreams = true;
      context.connection = std::make_unique<ChannelConnection>(std::move(webSocket), channelsOf(session),
                                                               protocol.base64, protocol.closeSignals);
    }
  }
  auto made = makeSession(std::move(context), std::move(session));
  sessions_.insert(made);
  made->start([this](Session& over) { sessions_.erase(over.shared_from_this()); });
  armChecks();
}

// Only while there are sessions: a daemon at rest does not wake up.
void Server::Impl::armChecks() {
  if (checking_ || sessions_.empty()) return;
  checking_ = true;
  checks_.expires_after(kCheckPause);
  checks_.async_wait([this](ErrorCode error) {
    checking_ = false;
    if (error) return;
    auto all = sessions_;  // those that are over leave the set meanwhile
    for (const auto& session : all) session->check(Clock::now());
    armChecks();
  });
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() {
  stop();
}

Result<std::unique_ptr<Server>> Server::start(core::Streams& core) {
  auto impl = std::make_unique<Impl>(core);
  USERPOD_CHECK(impl->start());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Result<std::string> Server::exec(const std::string& containerId, core::ExecRequest request) {
  return impl_->url(Exec{containerId, std::move(request)});
}

Result<std::string> Server::attach(const std::string& containerId, AttachRequest request) {
  return impl_->url(Attach{containerId, request});
}

Result<std::string> Server::portForward(const std::string& podId, std::vector<std::uint16_t> ports) {
  return impl_->url(PortForward{podId, std::move(ports)});
}

void Server::stop() {
  impl_->stop();
}

}  // namespace userpod::streaming
